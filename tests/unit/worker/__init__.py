"""
Tests of C{pexservice.worker}.
"""
