"""
Mixed load with kills for an hour: see what grows.
"""
