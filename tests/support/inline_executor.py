"""
An executor that commits in the calling thread.
"""

from __future__ import annotations

from pexservice.stores.lmdb.executor import CommitExecutor
from tests.support.fakes import Mailbox


def inline() -> CommitExecutor:
    """
    Return an executor that runs each call at once.
    """
    return CommitExecutor(Mailbox(), monotonic=lambda: 0.0)
