"""
The store on a local disk, in LMDB.
"""
