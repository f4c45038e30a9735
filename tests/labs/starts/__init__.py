"""
Starts that something comes in the way of, again and again, under clients.
"""
