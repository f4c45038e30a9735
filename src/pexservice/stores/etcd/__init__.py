"""
The store of many nodes: etcd, through its JSON gateway.

  - C{address} parses the URL of a store, and C{factory} makes the store;
  - C{gateway} is the interface of a gateway, and has the watch that reports other nodes'
    batches; C{http_gateway} implements the interface, with TLS from C{secure};
  - C{records} has the format of every key and value, C{messages} has every transaction;
  - C{store} implements L{ISharedStore<pexservice.stores.shared_interface.ISharedStore>}:
    C{decision} finds out whether a batch is stored, C{turn_queue} decides which node's turn
    it is, and C{journal} reads the history and removes old idempotency keys.

A process imports this package only with C{--store etcd:...}.
"""
