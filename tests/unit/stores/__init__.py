"""
Tests of C{pexservice.stores}.
"""
