"""
The supervisor: it starts the workers and replaces those that end.
"""
