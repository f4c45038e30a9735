"""
Failing system calls: each one fails once, and each one fails from then on.
"""
