"""
Three etcd and three nodes, and every fault between them.
"""
