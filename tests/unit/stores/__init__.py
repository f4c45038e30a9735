"""
What survives, and how.
"""
