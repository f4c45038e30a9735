"""
The HTTP API that callers see: the resource tree, and how its answers are written.
"""
