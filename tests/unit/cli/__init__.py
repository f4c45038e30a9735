"""
Tests of C{pexservice.cli}.
"""
