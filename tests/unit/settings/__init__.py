"""
Tests of C{pexservice.settings}.
"""
