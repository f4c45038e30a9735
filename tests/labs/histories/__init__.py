"""
Check the whole record of many clients for linearizability.
"""
