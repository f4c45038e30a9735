"""
The store of many nodes: etcd, through its JSON gateway.

C{address} reads the option, C{records} has every byte in etcd, C{gateway} speaks
HTTP, C{store} keeps the promise, C{opening} is how it begins, and C{watch} hears of
what others did.

Imported only by who has C{--store etcd:...}.
"""
