"""
Connections: what is taken as a request, from whom, and how many.
"""
