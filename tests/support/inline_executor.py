"""
An executor of commits that hands nothing over to a thread.
"""

from __future__ import annotations

from pexservice.stores.lmdb.executor import CommitExecutor
from tests.support.fakes import Mailbox


def inline() -> CommitExecutor:
    """
    Return an executor that runs each call where it is made.
    """
    return CommitExecutor(Mailbox(), monotonic=lambda: 0.0)
