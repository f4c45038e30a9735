"""
The processes that read the store besides the one that writes it.

LMDB uses no page again that a reader might see, so the file grows with each commit for as
long as a process reads one state of it: a copy that takes long, or one that was stopped.
LMDB's table of readers has the process and the transaction that it reads.
"""

from __future__ import annotations

import os
import re

import lmdb

from pexservice.stores.interface import Snapshot

#: A line of the table: process, thread, transaction; a slot at rest has no transaction.
_LINE = re.compile(r"^ *(\d+) +[0-9a-f]+ +(\d+)$", re.MULTILINE)


def oldest_snapshot(env: lmdb.Environment) -> Snapshot | None:
    """
    Return the oldest state that another process reads, if there is one.
    """
    own = str(os.getpid())
    read = [(int(txn), int(pid)) for pid, txn in _LINE.findall(env.readers()) if pid != own]
    if not read:
        return None
    txn, pid = min(read)
    return Snapshot(pid, env.info()["last_txnid"] - txn)
