"""
What callers see: the resource tree and how its answers are written.
"""
