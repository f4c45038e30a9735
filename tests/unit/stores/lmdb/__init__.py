"""
Tests of C{pexservice.stores.lmdb}.
"""
