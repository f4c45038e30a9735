"""
The real daemon over real sockets.
"""
