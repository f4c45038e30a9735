"""
Group commit: steps become durable in batches, with one commit for each batch.

C{interface} declares a committer.  C{group_commit} is its common part, C{committer} is for
a store that only this process writes to, and C{optimistic} for one that other nodes write
to as well.
"""
