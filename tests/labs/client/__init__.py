"""
The client, while the services that it calls are killed again and again.
"""
