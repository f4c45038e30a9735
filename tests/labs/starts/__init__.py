"""
Starts that are disturbed, under load.
"""
