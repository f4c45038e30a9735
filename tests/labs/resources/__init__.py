"""
A machine short of disk, memory, descriptors or time.
"""
