"""
Group commit: steps become durable in batches, with one commit for each batch.

C{interface} declares a committer.  The committer in C{committer} is for a store that only
this process writes to.  The committer in C{optimistic} is for a store that several nodes
write to.  C{group_commit} has the common part of both.
"""
