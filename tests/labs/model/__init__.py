"""
Generated conversations with the daemon, compared with a model.
"""
