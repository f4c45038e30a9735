"""
The server's connections: which bytes count as a request, which clients are admitted, and
how many.
"""
