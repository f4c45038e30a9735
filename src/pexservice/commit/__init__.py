"""
Group commit: transitions become durable in batches, one commit for each.

C{interface} says what a committer promises, C{committer} keeps the promise for a store
of this process alone, and C{optimistic} for one that others write to.  Both make their
batches with C{group_commit}.
"""
