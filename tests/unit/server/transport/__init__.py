"""
Tests of C{pexservice.server.transport}.
"""
