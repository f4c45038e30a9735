"""
Tests of C{pexservice.commit}.
"""
