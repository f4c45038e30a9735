"""
A hand-over that hands nothing over.
"""

from __future__ import annotations

from pexservice.stores.lmdb.executor import CommitExecutor, ExecutorPolicy
from tests.support.fakes import Mailbox


def inline() -> CommitExecutor:
    """
    Runs each call where it is made.
    """
    return CommitExecutor(Mailbox(), ExecutorPolicy(), monotonic=lambda: 0.0)
