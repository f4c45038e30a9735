"""
Malformed requests by the hundred, and slow clients.
"""
