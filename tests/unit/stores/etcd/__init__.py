"""
Tests of C{pexservice.stores.etcd}.
"""
