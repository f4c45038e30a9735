"""
One worker process: it owns the store and answers requests.
"""
