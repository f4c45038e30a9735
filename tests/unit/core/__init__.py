"""
Tests of C{pexservice.core}.
"""
