"""
Verify a whole store before it is used.

The verification has three parts.  First, L{pexservice.stores.lmdb.pages} checks the data
file page by page.  Second, LMDB reads every record: each record must match its checksum,
the records of each database must be in order, a lookup must find the same record as the
iteration, and the journal must end at the cursor.  Third, the store must not be older than
its witness; see L{pexservice.stores.lmdb.witness}.

A verification changes nothing.  A child process makes it, because damage may end this
process; see L{pexservice.stores.lmdb.child}.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
from attrs import define

from pexservice.core.cursor import Cursor
from pexservice.stores.factory_interface import StoreSummary
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress, run_child
from pexservice.stores.lmdb.databases import (
    DATABASES,
    LOW_LEVEL_ERRORS,
    as_store_error,
    databases_of,
    open_for_reading,
)
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.format_1 import keys_of_format_1
from pexservice.stores.lmdb.page_format import BadPage
from pexservice.stores.lmdb.pages import Contents, check_pages
from pexservice.stores.lmdb.records import FORMAT_VERSION, BadRecord
from pexservice.stores.lmdb.transaction import read_cursor, read_format
from pexservice.stores.lmdb.witness import check_not_older, read_witness

#: The part of the progress, in percent, that the check of the pages takes.
_PAGES_PERCENT = 25

_RECORDS_PER_REPORT = 256


def verify(path: Path, progress: Progress = lambda _: None) -> None:
    """
    Read every page and every record of the store in C{path}.

    Call this only while no process writes to the store.

    @param progress: called often with how much is done, in percent.
    @raise StoreDamaged: the store contains something that no commit wrote, or has lost
        commits.
    @raise StoreIncompatible: the store has another format.
    @raise StoreError: the store cannot be read.
    """
    progress(0)
    try:
        contents = check_pages(
            path, lambda percent: progress(percent * _PAGES_PERCENT // 100)
        )
        with open_for_reading(path) as env:
            cursor = _read_records(env, contents, progress)
        check_not_older(path, cursor.revision, read_witness(path))
    except LOW_LEVEL_ERRORS as error:
        raise as_store_error(path, error) from error


def _read_records(env: lmdb.Environment, contents: Contents, progress: Progress) -> Cursor:
    transaction = env.info()["last_txnid"]
    if transaction != contents.transaction:
        raise BadPage(
            f"LMDB begins with the transaction {transaction}, but the newest meta page has"
            f" the transaction {contents.transaction}"
        )
    read_format(env)
    if set(contents.entries) != set(DATABASES):
        raise BadRecord(
            f"its databases are {sorted(contents.entries)}, not {sorted(DATABASES)}"
        )
    databases = databases_of(env)
    with env.begin() as txn:
        reader = _Reader(txn, sum(contents.entries.values()), progress)
        version, cursor, _ = read_cursor(txn, databases)
        if [key for key, _ in reader.items(databases.cursor)] != [records.CURSOR_KEY]:
            raise BadRecord("it has more than one cursor")
        _check_journal(reader.items(databases.journal), cursor)
        keys = reader.items(databases.keys)
        if version == FORMAT_VERSION:
            _check_keys(keys, cursor.revision)
        else:
            # This generator checks all records while it runs.
            for _ in keys_of_format_1(txn, databases.keys, keys, cursor.revision):
                pass
    return cursor


@define(eq=False)
class _Reader:
    _txn: lmdb.Transaction[bytes]
    _total_records: int
    _progress: Progress
    _records_read: int = 0

    def items(self, database: lmdb._Database) -> Iterator[tuple[bytes, bytes]]:
        """
        Yield every record of a database, in the order of LMDB's keys.

        @raise BadRecord: the records are not in order, a lookup finds a different record,
            or LMDB counts a different number of records.
        """
        previous, count = None, 0
        for key, value in self._txn.cursor(database):
            if previous is not None and key <= previous:
                raise BadRecord(f"the record {key!r} comes after {previous!r}")
            if self._txn.get(key, db=database) != value:
                raise BadRecord(f"looking up {key!r} does not find its record")
            yield key, value
            previous, count = key, count + 1
            self._records_read += 1
            if not self._records_read % _RECORDS_PER_REPORT:
                part = (100 - _PAGES_PERCENT) * self._records_read // self._total_records
                self._progress(_PAGES_PERCENT + part)
        entries = self._txn.stat(database)["entries"]
        if count != entries:
            raise BadRecord(f"there are {count} records where LMDB counts {entries}")


def _check_journal(rows: Iterator[tuple[bytes, bytes]], cursor: Cursor) -> None:
    """
    Check that each row ends where the next row begins, and the last row at the cursor.
    """
    expected: Cursor | None = None
    for key, value in rows:
        before, after = records.decode_journal_row_ends(key, value)
        if expected not in (None, before):
            raise BadRecord(f"the journal breaks off after revision {before.revision}")
        expected = after
    if expected not in (None, cursor):
        raise BadRecord("the journal does not lead to the cursor")


def _check_keys(rows: Iterator[tuple[bytes, bytes]], newest_revision: int) -> None:
    """
    Check that the ordinals of the keys have no gap, and that their revisions increase.

    No key may have a revision above C{newest_revision}.
    """
    expected, revision = None, 0
    for key, value in rows:
        row = records.decode_key_row(key, value)
        if expected not in (None, row.first_ordinal):
            raise BadRecord(f"the rows of keys break off before {row.first_ordinal}")
        expected = row.next_ordinal
        revision = records.check_key_row(row, revision, newest_revision)


def verify_in_child(path: Path, progress: Progress = lambda _: None) -> StoreSummary:
    """
    Verify a store in a child process (see L{run_child}), and return its summary.
    """
    run_child(verify, path, progress=progress)
    return summary(path)


def summary(path: Path) -> StoreSummary:
    """
    Return the summary of a store that was verified, and that no process writes to.
    """
    with open_for_reading(path) as env:
        databases = databases_of(env)
        with env.begin() as txn:
            cursor = read_cursor(txn, databases).cursor
    witness = read_witness(path)
    return StoreSummary(
        store=str(path),
        revision=cursor.revision,
        position=cursor.position,
        size=(path / DATA_FILE).stat().st_size,
        witness=None if witness is None else witness.revision,
    )
