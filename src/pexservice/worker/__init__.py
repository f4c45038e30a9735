"""
One worker process, which opens the store and responds to requests.
"""
