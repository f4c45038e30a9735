"""
Rewrite a store of format 1 in format 2, the first time that it is opened.

The new store is made beside the old one, verified, and renamed into its place, so a power
cut leaves the old store or the new one.  A child process does the reading and writing,
C{python -m pexservice.stores.lmdb.migrate STORE PLACE}, because a damaged store may end the
process that reads it; see L{pexservice.stores.lmdb.child}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import lmdb
from twisted.logger import Logger

from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress, answer, ask_child
from pexservice.stores.lmdb.databases import MAP_BASE
from pexservice.stores.lmdb.directory import DATA, Directory
from pexservice.stores.lmdb.format_1 import keys_of_format_1
from pexservice.stores.lmdb.pages import check_pages
from pexservice.stores.lmdb.transaction import rows_from, write_keys
from pexservice.stores.lmdb.verify import (
    DATABASES,
    READING_ERRORS,
    blame,
    check_cursor,
    read_version,
    verify,
)
from pexservice.stores.lmdb.witness import check_witness

Item = tuple[bytes, bytes]

_log = Logger()

#: How many keys a new row holds, and how many rows are written in one transaction.
_ROW_KEYS = 256
_TRANSACTION_ROWS = 10_000


def format_of(path: Path) -> int:
    """
    Return the version of a store's format; -1 if this program does not read it.
    """
    try:
        with (
            lmdb.open(
                str(path), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
            ) as env,
            env.begin() as txn,
        ):
            return read_version(txn, env.open_db(DATABASES[0], txn, create=False))
    except READING_ERRORS:
        return -1


def migrate(directory: Directory, progress: Progress | None = None) -> None:
    """
    Rewrite a store of format 1.

    @param directory: the directory of the store, which this process owns.
    @raise StoreUnusable: the store could not be rewritten, and is as it was.
    """
    try:
        directory.install(
            lambda place: ask_child(
                directory.path,
                "pexservice.stores.lmdb.migrate",
                str(directory.path),
                str(place),
                progress=progress,
            )
        )
    except BaseException:
        directory.tidy()
        raise
    _log.warn(
        "the store {path} was rewritten in format {version}; version 1.0.0 cannot open it"
        " any more",
        path=directory.path,
        version=records.FORMAT_VERSION,
    )


def rewrite(source: Path, place: Path, progress: Progress) -> None:
    """
    Make a store of format 2 in C{place}, durably, from the store of format 1 in C{source}.

    @raise StoreDamaged: the old store is damaged.
    @raise StoreUnusable: the new store could not be written.
    """
    progress(0)
    try:
        file = os.open(source / DATA, os.O_RDONLY | os.O_CLOEXEC)
        try:
            check_pages(file, lambda done: progress(int(25 * done)))
        finally:
            os.close(file)
        with (
            lmdb.open(
                str(source), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
            ) as old,
            # Nobody else opens it, and LMDB's table of readers, as a map with a hole,
            # would end this process by SIGBUS on a full disk.
            lmdb.open(
                str(place),
                map_size=MAP_BASE + 2 * (source / DATA).stat().st_size,
                max_dbs=len(DATABASES),
                lock=False,
                mode=0o600,
            ) as new,
        ):
            revision = _copy(old, new, progress)
        check_witness(source, revision)
    except READING_ERRORS as error:
        blamed = blame(source, error)
        if type(blamed) is not StoreUnusable:
            raise blamed from error
        raise StoreUnusable(
            f"the store {source} cannot be rewritten in format {records.FORMAT_VERSION}:"
            f" {error}; it stays as it is"
        ) from error
    verify(place, lambda percent: progress(50 + percent // 2))


def _copy(old: lmdb.Environment, new: lmdb.Environment, progress: Progress) -> int:
    cursor, journal, keys = (old.open_db(name, create=False) for name in DATABASES)
    new_cursor, new_journal, new_keys = (new.open_db(name) for name in DATABASES)
    with old.begin() as txn:
        revision, position = check_cursor(txn, cursor, journal)
        for part in _parts(rows_from(txn, journal, 0), _TRANSACTION_ROWS):
            progress(30)
            with new.begin(write=True, db=new_journal) as writing:
                for key, value in part:
                    writing.put(key, value, append=True)
        newest = records.KeyRow(1, b"", b"")
        old_keys = keys_of_format_1(txn, keys, txn.cursor(keys), revision)
        for part in _parts(old_keys, _TRANSACTION_ROWS):
            progress(40)
            with new.begin(write=True) as writing:
                for row in _parts(part, _ROW_KEYS):
                    newest = write_keys(writing, new_keys, dict(row), newest)
        with new.begin(write=True, db=new_cursor) as writing:
            writing.put(records.CURSOR_KEY, records.write_cursor(revision, position))
    return revision


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


if __name__ == "__main__":
    source, place = map(Path, sys.argv[1:])
    sys.exit(answer(partial(rewrite, source, place)))
