"""
Keep-alive: the supervisor starts the workers and replaces those that end.
"""
