"""
Generated conversations with the daemon, against a model.
"""
