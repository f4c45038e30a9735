"""
Tests of C{pexservice.supervisor}.
"""
