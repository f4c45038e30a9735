"""
Group commit: steps become durable in batches, with one commit for each batch.

C{interface} declares a committer.  C{group_commit} has the common part of all committers,
and C{batching_policy} decides when a batch is committed.  There are three committers:

  - C{committer} is for a store that only this process writes to;
  - C{asynchronous} is for the same store, with C{--synchronous-commit off};
  - C{optimistic} is for a store that several nodes write to.
"""
