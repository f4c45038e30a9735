"""
Tests of C{pexservice.web}: what callers of the service see.
"""
