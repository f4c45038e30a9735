"""
The store of many nodes: etcd, through its JSON gateway.

C{address} reads the option, C{records} has every key and value in etcd, C{messages} every
transaction.  C{gateway} speaks HTTP and C{secure} TLS, C{caller} says what they promise,
and C{store} keeps its own promise by them: C{decision} finds out what became of a batch,
C{standing_queue} has nodes take turns, and C{watch} hears of what other nodes did.
C{opening} is how the store begins, C{history} and C{trimming} are the journal's pages and
the end of old keys.  C{factory} puts the store together.

The package is imported only with C{--store etcd:...}.
"""
