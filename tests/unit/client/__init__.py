"""
The client, without a network and without real time.
"""
