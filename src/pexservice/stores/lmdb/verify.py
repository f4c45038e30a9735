"""
Verify a whole store before it is used.

First L{pexservice.stores.lmdb.pages} checks the data file page by page.  Then every record
is read with LMDB, as the service does.  Each record must match its checksum, the keys must
be in order, a lookup must find the same record as the iteration, and the journal must lead
to the cursor.  Last, the store must not be older than its witness; see
L{pexservice.stores.lmdb.witness}.

A child process does this, C{python -m pexservice.stores.lmdb.verify DIRECTORY}; see
L{pexservice.stores.lmdb.child}.  It changes nothing.  Its exit status is 0, 78
(C{EX_CONFIG}) for a damaged store, 64 (C{EX_USAGE}) for a store of another format, or 1 for
a store that cannot be read.  A line on standard output gives the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lmdb
from attrs import define

from pexservice.stores.interface import (
    StoreDamaged,
    StoreIncompatible,
    StoreSummary,
    StoreUnusable,
)
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress, child_main, run_child
from pexservice.stores.lmdb.databases import (
    DATABASES,
    Databases,
    databases_of,
    open_for_reading,
)
from pexservice.stores.lmdb.directory import DATA
from pexservice.stores.lmdb.format_1 import keys_of_format_1
from pexservice.stores.lmdb.page_format import BadPage, OtherFile
from pexservice.stores.lmdb.pages import Contents, check_pages
from pexservice.stores.lmdb.records import FORMAT_VERSION, BadRecord
from pexservice.stores.lmdb.witness import check_witness, read_witness

#: Errors that show that the store contains something that was never written.  Other errors
#: of LMDB and of the system are no sign of damage.
DAMAGE = (
    BadPage,
    BadRecord,
    # Raised by a transaction that cannot read LMDB's record of a database.
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
)

#: Errors that mean that the store has another format.
_OTHER_FORMAT = (OtherFile, records.OtherFormat, lmdb.VersionMismatchError)

#: Everything that reading a store may raise.
READING_ERRORS = (lmdb.Error, OSError, *DAMAGE, *_OTHER_FORMAT)

#: How much of the verification the check of the pages is.  The records are the rest.
_PAGES_PERCENT = 25

#: How many records are read between two reports of progress.
_RECORDS_PER_REPORT = 256


def verify(path: Path, progress: Progress = lambda _: None) -> None:
    """
    Read every page and every record of the store in C{path}, which no process writes to.

    @param progress: called often with how much is done, in percent.
    @raise StoreDamaged: it contains something that was never written, or it has lost
        commits.
    @raise StoreIncompatible: it has another format.
    @raise StoreUnusable: it cannot be read.
    """
    progress(0)
    try:
        contents = check_file(path, lambda done: progress(done * _PAGES_PERCENT // 100))
        with open_for_reading(path) as env:
            revision = _read_records(env, contents, progress)
        check_witness(path, revision)
    except READING_ERRORS as error:
        raise explain(path, error) from error


def explain(path: Path, error: Exception) -> StoreUnusable:
    """
    Return the error to raise after reading the store in C{path} has raised C{error}.
    """
    if isinstance(error, _OTHER_FORMAT):
        return StoreIncompatible(f"the store {path} is of another format: {error}")
    if isinstance(error, DAMAGE):
        return StoreDamaged(f"the store {path} is damaged: {error}")
    return StoreUnusable(f"the store {path} cannot be used: {error}")


def check_file(path: Path, progress: Progress) -> Contents:
    """
    Check all pages of the store in C{path}; see L{check_pages}.
    """
    file = os.open(path / DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return check_pages(file, progress)
    finally:
        os.close(file)


def _read_records(env: lmdb.Environment, contents: Contents, progress: Progress) -> int:
    """
    Read every record of the store.

    @return: the cursor's revision.
    """
    if env.info()["last_txnid"] != contents.transaction:
        raise BadPage(f"LMDB does not begin with the transaction {contents.transaction}")
    cursor_database = env.open_db(DATABASES[0], create=False)
    with env.begin() as txn:
        # Read the cursor first, because another format may have other databases.
        _cursor_record(txn, cursor_database)
    if set(contents.entries) != set(DATABASES):
        raise BadRecord(f"its databases are {sorted(contents.entries)}")
    databases = databases_of(env)
    with env.begin() as txn:
        reader = _Reader(txn, sum(contents.entries.values()), progress)
        version, revision, position = read_cursor(txn, databases)
        if [key for key, _ in reader.items(databases.cursor)] != [records.CURSOR_KEY]:
            raise BadRecord("it has more than one cursor")
        _check_journal(reader.items(databases.journal), (revision, position))
        keys = reader.items(databases.keys)
        if version == FORMAT_VERSION:
            _check_keys(keys, revision)
        else:
            for _ in keys_of_format_1(txn, databases.keys, keys, revision):
                pass
    return revision


def _cursor_record(
    txn: lmdb.Transaction[bytes], database: lmdb._Database
) -> tuple[int, int, int]:
    value = txn.get(records.CURSOR_KEY, db=database)
    if value is None:
        raise BadRecord("it has no cursor")
    return records.decode_cursor(value)


@define(eq=False)
class _Reader:
    """
    A reader of all records, which reports its progress.
    """

    _txn: lmdb.Transaction[bytes]
    # How many records there are to read.
    _total: int
    _progress: Progress
    _done: int = 0

    def items(self, database: lmdb._Database) -> Iterator[tuple[bytes, bytes]]:
        """
        Yield every record, in the order of the keys.

        @raise BadRecord: the records are not in order, a lookup finds another record, or
            LMDB counts another number of records.
        """
        previous, count = None, 0
        for key, value in self._txn.cursor(database):
            if previous is not None and key <= previous:
                raise BadRecord(f"the record {key!r} comes after {previous!r}")
            if self._txn.get(key, db=database) != value:
                raise BadRecord(f"looking up {key!r} does not find its record")
            yield key, value
            previous, count = key, count + 1
            self._done += 1
            if not self._done % _RECORDS_PER_REPORT:
                rest = (100 - _PAGES_PERCENT) * self._done // self._total
                self._progress(_PAGES_PERCENT + rest)
        entries = self._txn.stat(database)["entries"]
        if count != entries:
            raise BadRecord(f"there are {count} records where LMDB counts {entries}")


def _check_journal(rows: Iterator[tuple[bytes, bytes]], cursor: tuple[int, int]) -> None:
    end: tuple[int, int] | None = None
    for key, value in rows:
        before, after = records.decode_journal_row_ends(key, value)
        if end not in (None, before):
            raise BadRecord(f"the journal breaks off after revision {before[0]}")
        end = after
    if end not in (None, cursor):
        raise BadRecord("the journal does not lead to the cursor")


def _check_keys(rows: Iterator[tuple[bytes, bytes]], newest_revision: int) -> None:
    end, revision = None, 0
    for key, value in rows:
        row = records.decode_key_row(key, value)
        if end not in (None, row.first_ordinal):
            raise BadRecord(f"the rows of keys break off before {row.first_ordinal}")
        end = row.next_ordinal
        revision = records.check_key_row(row, revision, newest_revision)


def read_cursor(txn: lmdb.Transaction[bytes], databases: Databases) -> tuple[int, int, int]:
    """
    Read the cursor, and check that the last journal row leads to it.

    @return: (version of the format, revision, position)
    @raise OtherFormat: this program does not read that version.
    @raise BadRecord: the last journal row does not lead to the cursor.
    """
    version, revision, position = _cursor_record(txn, databases.cursor)
    with txn.cursor(databases.journal) as rows:
        if rows.last():
            _, (last_revision, last_position) = records.decode_journal_row_ends(
                *rows.item()
            )
            if (last_revision, last_position) != (revision, position):
                raise BadRecord(
                    f"the journal ends at revision {last_revision} and position"
                    f" {last_position}, the cursor is at {revision} and {position}"
                )
        elif (revision, position) != (0, 0):
            raise BadRecord(f"the journal of {revision} transitions is empty")
    return version, revision, position


def format_of(path: Path) -> int:
    """
    Return the version of a store's format.

    The errors are L{READING_ERRORS}; C{OtherFormat} if this program does not read it.
    """
    with open_for_reading(path) as env:
        cursor_database = env.open_db(DATABASES[0], create=False)
        with env.begin() as txn:
            return _cursor_record(txn, cursor_database)[0]


def verify_in_child(path: Path, progress: Progress | None = None) -> None:
    """
    Verify a store as L{verify} does, in a child process, which damage may end.

    This blocks; see L{run_child}.
    """
    run_child(path, "pexservice.stores.lmdb.verify", path, progress=progress)


def summary(path: Path) -> StoreSummary:
    """
    Return the summary of the store in C{path}.

    The store was verified, and no process writes to it.
    """
    with open_for_reading(path) as env:
        databases = databases_of(env)
        with env.begin() as txn:
            _, revision, position = read_cursor(txn, databases)
    witness = read_witness(path)
    return StoreSummary(
        store=str(path),
        revision=revision,
        position=position,
        size=(path / DATA).stat().st_size,
        witness=None if witness is None else witness.revision,
    )


if __name__ == "__main__":
    sys.exit(child_main(partial(verify, Path(sys.argv[1]))))
