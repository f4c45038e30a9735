"""
The one LMDB environment of a store, the three databases in it, and who reads it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.stores.interface import Snapshot, StoreUnusable
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import Directory, make_lock_file
from pexservice.stores.lmdb.verify import DATABASES

#: The bytes of the map of a store with an empty journal.  100,000 keys of 255 characters
#: take 30 MB; the rest is for pages that cannot be used again while a backup reads them.
MAP_BASE = 256 << 20

#: A line of LMDB's table of readers: process, thread, transaction.  A slot that is not in
#: use has no transaction.
_READER = re.compile(r"^ *(\d+) +[0-9a-f]+ +(\d+)$", re.MULTILINE)


@frozen
class Databases:
    """
    An open environment and its databases.
    """

    env: lmdb.Environment
    cursor: lmdb._Database
    journal: lmdb._Database
    keys: lmdb._Database


def open_databases(path: Path, map_size: int) -> Databases:
    """
    Open the store in the directory C{path} for writing.

    @param map_size: bytes that the file may grow to.
    @raise OSError: there is no room for its table of readers.
    @raise StoreUnusable: its table of readers cannot be locked.
    """
    make_lock_file(path)
    try:
        env = lmdb.open(
            str(path), map_size=map_size, max_dbs=len(DATABASES), create=False, mode=0o600
        )
    except lmdb.InvalidError as error:
        # LMDB raises this for its table of readers, too: when the table cannot be locked,
        # LMDB takes it for one that another process has filled.
        lmdb.open(str(path), readonly=True, lock=False, create=False).close()
        raise StoreUnusable(f"the store {path} cannot be locked: {error}") from error
    try:
        return Databases(env, *(env.open_db(name, create=False) for name in DATABASES))
    except BaseException:
        env.close()
        raise


def make_store(path: Path) -> None:
    """
    Make a store in the directory C{path}, with the cursor at its origin.
    """
    make_lock_file(path)
    with lmdb.open(str(path), map_size=MAP_BASE, max_dbs=len(DATABASES), mode=0o600) as env:
        cursor, _, _ = (env.open_db(name) for name in DATABASES)
        with env.begin(write=True) as txn:
            txn.put(records.CURSOR_KEY, records.write_cursor(0, 0), db=cursor)


def prepare(directory: Directory) -> bool:
    """
    Prepare the store to be opened: create it where there is none, if that is allowed.

    @return: whether there was a store, which somebody may have damaged.
    @raise StoreUnusable: or one of its subclasses.
    """
    existed = directory.holds_a_store()
    if existed:
        directory.tidy()
    else:
        try:
            directory.create_store(make_store)
        except lmdb.Error as error:
            raise StoreUnusable(
                f"the store {directory.path} cannot be made: {error}"
            ) from error
    directory.remember_file()
    return existed


def used_bytes(env: lmdb.Environment) -> int:
    """
    Return how much of the file is in use, pages that are free again included.
    """
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def oldest_snapshot(env: lmdb.Environment) -> Snapshot | None:
    """
    Return the oldest state that another process reads, if there is one.

    LMDB uses no page again that a reader might see.  So the file grows with each commit
    while a process reads one state of it, such as a slow copy or one that was stopped.
    """
    own = str(os.getpid())
    snapshots = [
        (int(txn), int(pid)) for pid, txn in _READER.findall(env.readers()) if pid != own
    ]
    if not snapshots:
        return None
    txn, pid = min(snapshots)
    return Snapshot(pid, env.info()["last_txnid"] - txn)
