"""
Damage to every page of a store.
"""
