"""
The stores, in which the cursor outlives the process.

C{interface} says what a store promises, and C{registry} which store a URL names.
C{lmdb} keeps the promise on one machine, and C{etcd} on many.
"""
