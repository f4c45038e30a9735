"""
Tests of the server.
"""
