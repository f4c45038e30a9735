"""
The options of the service as plain values.
"""
