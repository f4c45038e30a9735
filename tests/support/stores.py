"""
Stores made for a test.
"""

from __future__ import annotations

from pathlib import Path

from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.executor import CommitExecutor, ExecutorPolicy
from pexservice.stores.lmdb.store import LmdbStore
from tests.support.fakes import Mailbox, now


def make_store(path: Path, position: int) -> None:
    """
    A store in C{path} whose cursor went up to C{position} in one batch.
    """
    store = LmdbStore(
        Directory(str(path)),
        CommitExecutor(Mailbox(), ExecutorPolicy()),
        verify=lambda _: None,
    )
    now(store.open())
    if position:
        now(store.commit(Batch(1, 0, b"n" * position, position, time_ns=0)))
    now(store.close())
