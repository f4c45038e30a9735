"""
Group commit: transitions become durable in batches, with one commit for each batch.

C{interface} declares a committer; C{committer} implements it for a store of this process
alone, and C{optimistic} for a store that other nodes write to.  Both make their batches
with C{group_commit}.
"""
