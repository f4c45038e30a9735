"""
Every system call fails once, and for good.
"""
