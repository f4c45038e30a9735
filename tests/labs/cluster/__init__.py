"""
Faults of three members of etcd, of three nodes, and of the connections between them.
"""
