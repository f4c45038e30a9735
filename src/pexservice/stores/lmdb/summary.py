"""
The summary of a whole store, in a few words.
"""

from __future__ import annotations

from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb.directory import DATA, Directory
from pexservice.stores.lmdb.verify import DATABASES, check_cursor
from pexservice.stores.lmdb.witness import read_witness


@frozen(kw_only=True)
class Summary:
    """
    The summary of a store.

    @ivar store: its directory.
    @ivar size: the length of its file, in bytes.
    @ivar witness: the revision that it had at least, if its witness tells one.
    """

    store: str
    revision: int
    position: int
    size: int
    witness: int | None


def existing(path: str) -> Directory:
    """
    Return the directory C{path}, which must hold a store.

    @raise StoreUnusable: the directory holds no store.
    """
    directory = Directory(path)
    if not directory.holds_a_store():
        raise StoreUnusable(f"there is no store in {directory.path}")
    return directory


def summary(path: Path) -> Summary:
    """
    Return the summary of the store in C{path}, which was verified and is not written to.
    """
    with lmdb.open(
        str(path), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
    ) as env:
        cursor, journal, _ = (env.open_db(name, create=False) for name in DATABASES)
        with env.begin() as txn:
            revision, position = check_cursor(txn, cursor, journal)
    witness = read_witness(path)
    size = (path / DATA).stat().st_size
    return Summary(
        store=str(path),
        revision=revision,
        position=position,
        size=size,
        witness=None if witness is None else witness.revision,
    )
