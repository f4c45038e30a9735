"""
Linearizability of the records of many clients while workers are killed.
"""
