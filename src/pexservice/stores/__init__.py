"""
The stores, which keep the cursor durably.

C{interface} is the contract of a store, and C{registry} finds the store of a URL.  C{lmdb}
implements the contract on one machine, and C{etcd} on many.
"""
