"""
Shortages of disk space, memory and descriptors, a changed clock, and a hanging disk.
"""
