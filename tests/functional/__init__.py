"""
Tests of the real daemon over real sockets.
"""
