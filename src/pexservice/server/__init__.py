"""
The server's connections, their requests and their clients.

This package decides which bytes count as a request, which clients are admitted, and how
many.
"""
