"""
The meaning of requests: the Klein app, access rules, preconditions and responses.
"""
