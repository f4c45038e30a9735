"""
The store of many nodes: etcd, through its JSON gateway.

  - C{address} parses the URL of a store, and C{factory} makes the store;
  - C{gateway} is the interface of a gateway; C{http_gateway} implements it, with TLS from
    C{secure};
  - C{records} has the format of every key and value, C{messages} has every transaction;
  - C{store} implements the contract of a store: C{decision} finds out whether a batch is
    stored, C{turn_queue} decides whose turn it is, C{watch} reports other nodes' batches,
    and C{journal} reads the history and removes old idempotency keys.

The package is imported only with C{--store etcd:...}.
"""
