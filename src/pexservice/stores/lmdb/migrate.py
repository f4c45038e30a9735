"""
The way from an older format of the records to the newest.

A store of an older format is written anew, beside its place, and renamed into it: a power
cut leaves the old store or the new one.  There is no older format yet; the next one adds
its entry to L{REWRITES}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb

from pexservice.stores.interface import StoreIncompatible
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.verify import DATABASES, READING_ERRORS

#: By the version of an older format: a function that reads a store of that format in one
#: directory, trusting nothing, and makes one of the newest format in another, durably.
REWRITES: dict[int, Callable[[Path, Path], None]] = {}


def migrate(directory: Directory, refusal: StoreIncompatible) -> None:
    """
    Put a store of the newest format in the place of one that was refused.

    @param directory: the directory of the store, which this process owns.
    @raise StoreIncompatible: C{refusal}, when there is no way from its format.
    """
    rewrite = REWRITES.get(_version(directory.path)) if REWRITES else None
    if rewrite is None:
        raise refusal
    directory.install(lambda place: rewrite(directory.path, place))


def _version(path: Path) -> int:
    """
    Return the version of a store's format, or -1 if it cannot be read.
    """
    try:
        with lmdb.open(
            str(path), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
        ) as env:
            cursor = env.open_db(DATABASES[0], create=False)
            with env.begin(db=cursor) as txn:
                return records.read_version(txn.get(records.CURSOR_KEY, b""))
    except READING_ERRORS:
        return -1
