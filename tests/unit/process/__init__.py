"""
Tests of C{pexservice.process}.
"""
