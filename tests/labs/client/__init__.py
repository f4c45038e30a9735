"""
The client, while what it calls is killed again and again.
"""
