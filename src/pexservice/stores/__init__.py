"""
Where the cursor survives.

C{interface} says what a store promises, C{lmdb} keeps the promise on one machine, and
C{etcd} on many.
"""
