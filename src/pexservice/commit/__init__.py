"""
Group commit: transitions become durable in batches, one commit for each.
"""
