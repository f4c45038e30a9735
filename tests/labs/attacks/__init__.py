"""
Hundreds of malformed requests, hostile clients and slow clients.
"""
