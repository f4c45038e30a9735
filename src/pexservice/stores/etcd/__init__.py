"""
The store of many nodes: etcd, through its JSON gateway.

  - C{address} parses the option, and C{factory} makes a store from it;
  - C{gateway} is the interface of a gateway, C{http_gateway} speaks HTTP, C{secure} TLS;
  - C{records} has the format of every key and value, C{messages} every transaction;
  - C{store} keeps the contract of stores: C{decision} decides whether a batch happened,
    C{turn_queue} has the nodes take turns, C{watch} hears of other nodes' batches, and
    C{journal} reads the history and forgets old keys.

The package is imported only with C{--store etcd:...}.
"""
