"""
Bytes in and out: the reactor, the listeners, uvloop's streams, TLS.
"""
