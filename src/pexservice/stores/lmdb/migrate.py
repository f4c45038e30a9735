"""
Rewrite a store of format 1 in format 2.

A worker does so before it opens the store, and a restore before it adds steps.  A child
process verifies the old store, makes the new store in a subdirectory, and verifies the new
store; see L{pexservice.stores.lmdb.child}.  Then a rename replaces the old data file by the
new one.  So a power cut leaves the old store or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import lmdb
from twisted.logger import Logger

from pexservice.stores.errors import StoreError
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress, run_child
from pexservice.stores.lmdb.databases import (
    Databases,
    databases_of,
    make_store,
    map_size_to_grow,
    open_for_reading,
    open_for_writing,
)
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.format_1 import keys_of_format_1
from pexservice.stores.lmdb.transaction import read_cursor, rows_from, write_keys
from pexservice.stores.lmdb.verify import verify

Item = tuple[bytes, bytes]

_log = Logger()

#: How many keys a new row has.
_ROW_KEYS = 256

#: How many rows or keys one transaction writes.
_TRANSACTION_ITEMS = 10_000


def migrate(directory: Directory, progress: Progress = lambda _: None) -> None:
    """
    Rewrite a store of format 1.

    @param directory: the directory of the store, which this process has locked.
    @raise StoreError: the store could not be rewritten, and did not change.
    """
    try:
        directory.replace_store(
            lambda new: run_child(rewrite, directory.real_path, new, progress=progress)
        )
    except BaseException:
        directory.remove_staging()
        raise
    _log.warn(
        "the store {path} was rewritten in format {version}; version 1.0.0 cannot open it"
        " any more",
        path=directory.configured_path,
        version=records.FORMAT_VERSION,
    )


def rewrite(source: Path, new: Path, progress: Progress) -> None:
    """
    Make a store of format 2 in C{new}, durably, from the store of format 1 in C{source}.

    @raise StoreDamaged: the old store is damaged.
    @raise StoreError: the new store could not be written.
    """
    verify(source, lambda percent: progress(percent // 3))
    try:
        make_store(new)
        databases = open_for_writing(new, map_size_to_grow(source))
        with databases.env, open_for_reading(source) as env:
            _copy(databases_of(env), databases, progress)
    except (lmdb.Error, OSError) as error:
        raise StoreError(
            f"the store {source} cannot be rewritten in format {records.FORMAT_VERSION}:"
            f" {error}; it stays as it is"
        ) from error
    verify(new, lambda percent: progress(66 + percent // 3))


def _copy(old: Databases, new: Databases, progress: Progress) -> None:
    with old.env.begin() as txn:
        cursor = read_cursor(txn, old).cursor
        for rows in _in_groups(rows_from(txn, old.journal, 0), _TRANSACTION_ITEMS):
            progress(40)
            with new.env.begin(write=True, db=new.journal) as writing:
                for key, value in rows:
                    writing.put(key, value, append=True)
        newest_row = records.NO_KEYS
        keys = keys_of_format_1(txn, old.keys, txn.cursor(old.keys), cursor.revision)
        for group in _in_groups(keys, _TRANSACTION_ITEMS):
            progress(50)
            with new.env.begin(write=True) as writing:
                for row in _in_groups(group, _ROW_KEYS):
                    newest_row = write_keys(writing, new.keys, dict(row), newest_row)
        with new.env.begin(write=True, db=new.cursor) as writing:
            record = records.encode_cursor(cursor, newest_row.next_ordinal)
            writing.put(records.CURSOR_KEY, record)


def _in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
