"""
What callers see.
"""
