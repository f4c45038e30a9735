"""
Read a whole store before trusting it.

Two readers have to agree.  L{pexservice.stores.lmdb.pages} walks the file page by page;
then LMDB, whose view is the one that is served, reads every record: each has its checksum,
the keys are in order, looking a key up finds what iterating found, and the journal leads to
the cursor.  L{pexservice.stores.lmdb.witness} tells whether that is the newest commit.

C{python -m pexservice.stores.lmdb.verify DIRECTORY} does that in a child process, as
L{pexservice.stores.lmdb.child} says.  It writes nothing.  Its exit status is 0, 78
(C{EX_CONFIG}) when the store is damaged, 64 (C{EX_USAGE}) when it has another format, or 1
when it cannot be read; a line on standard output says what is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
from attrs import define

from pexservice.stores.interface import StoreDamaged, StoreIncompatible, StoreUnusable
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Meter, Progress, answer, ask_child
from pexservice.stores.lmdb.directory import DATA
from pexservice.stores.lmdb.format_1 import keys_of_format_1
from pexservice.stores.lmdb.meta_pages import BadPage, OtherFile
from pexservice.stores.lmdb.pages import Contents, check_pages
from pexservice.stores.lmdb.records import FORMAT_VERSION
from pexservice.stores.lmdb.witness import check_witness

DATABASES = (b"cursor", b"journal", b"keys")

#: Errors that mean that what is read is not what was written.  Other errors of LMDB and
#: of the system say nothing about the store itself.
DAMAGE = (
    BadPage,
    records.BadRecord,
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

#: The part of the time that the pages take, beside the records.
_PAGES = 0.25

#: How many records are read between two reports of progress.
_STRIDE = 256


def verify(path: Path, progress: Progress | None = None) -> None:
    """
    Read every page and every record of the store in C{path}, which nobody writes to.

    @param progress: called several times a second with how much is done, in percent.
    @raise StoreDamaged: something in it is not what was written.
    @raise StoreIncompatible: it has another format.
    @raise StoreUnusable: it cannot be read.
    """
    meter = Meter(progress or (lambda _: None))
    meter.tell(0)
    try:
        contents = _check_file(path, lambda done: meter.tell(_PAGES * done))
        # Without locks: the caller owns the directory.
        with lmdb.open(
            str(path), max_dbs=len(DATABASES), readonly=True, lock=False, create=False
        ) as env:
            revision = _read_records(
                env, contents, lambda done: meter.tell(_PAGES + (1 - _PAGES) * done)
            )
        check_witness(path, revision)
    except READING_ERRORS as error:
        raise blame(path, error) from error


def blame(path: Path, error: Exception) -> StoreUnusable:
    """
    Return the error to raise for C{error}, met while the store in C{path} was read.
    """
    if isinstance(error, _OTHER_FORMAT):
        return StoreIncompatible(f"the store {path} is of another format: {error}")
    if isinstance(error, DAMAGE):
        return StoreDamaged(f"the store {path} is damaged: {error}")
    return StoreUnusable(f"the store {path} cannot be opened: {error}")


def _check_file(path: Path, progress: Callable[[float], object]) -> Contents:
    file = os.open(path / DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return check_pages(file, progress)
    finally:
        os.close(file)


def _read_records(
    env: lmdb.Environment, contents: Contents, progress: Callable[[float], object]
) -> int:
    """
    Read every record of the store.

    @return: the cursor's revision.
    """
    if env.info()["last_txnid"] != contents.transaction:
        raise BadPage(f"LMDB does not begin with the transaction {contents.transaction}")
    cursor = env.open_db(DATABASES[0], create=False)
    with env.begin() as txn:
        # The cursor first, because the rest may look different in another format.
        version = read_version(txn, cursor)
    if set(contents.entries) != set(DATABASES):
        raise records.BadRecord(f"its databases are {sorted(contents.entries)}")
    journal, keys = (env.open_db(name, create=False) for name in DATABASES[1:])
    with env.begin() as txn:
        reader = _Reader(txn, sum(contents.entries.values()), progress)
        newest = check_cursor(txn, cursor, journal)
        if [key for key, _ in reader.each(cursor)] != [records.CURSOR_KEY]:
            raise records.BadRecord("it has more than one cursor")
        _read_journal(reader.each(journal), newest)
        if version == FORMAT_VERSION:
            _read_keys(reader.each(keys), newest[0])
        else:
            for _ in keys_of_format_1(txn, keys, reader.each(keys), newest[0]):
                pass
    return newest[0]


@define(eq=False)
class _Reader:
    """
    A reader of databases, with LMDB.
    """

    _txn: lmdb.Transaction[bytes]
    # How many records there are to read.
    _total: int
    _progress: Callable[[float], object]
    _done: int = 0

    def each(self, database: lmdb._Database) -> Iterator[tuple[bytes, bytes]]:
        """
        Yield every record, in the order of the keys.

        @raise BadRecord: the records are not in order, or not as many as LMDB has
            counted, or looking one up finds something else.
        """
        before, count = None, 0
        for key, value in self._txn.cursor(database):
            if before is not None and key <= before:
                raise records.BadRecord(f"the record {key!r} comes after {before!r}")
            if self._txn.get(key, db=database) != value:
                raise records.BadRecord(f"looking up {key!r} does not find its record")
            yield key, value
            before, count = key, count + 1
            self._done += 1
            if not self._done % _STRIDE:
                self._progress(self._done / self._total)
        entries = self._txn.stat(database)["entries"]
        if count != entries:
            raise records.BadRecord(
                f"there are {count} records where LMDB counts {entries}"
            )


def _read_journal(rows: Iterator[tuple[bytes, bytes]], newest: tuple[int, int]) -> None:
    led_to: tuple[int, int] | None = None
    for key, value in rows:
        before, after = records.read_row_ends(key, value)
        if led_to not in (None, before):
            raise records.BadRecord(f"the journal breaks off after revision {before[0]}")
        led_to = after
    if led_to not in (None, newest):
        raise records.BadRecord("the journal does not lead to the cursor")


def _read_keys(rows: Iterator[tuple[bytes, bytes]], newest: int) -> None:
    end, revision = None, 0
    for key, value in rows:
        row = records.read_key_row(key, value)
        if end not in (None, row.first):
            raise records.BadRecord(f"the rows of keys break off before {row.first}")
        end = row.end
        revision = records.check_key_row(row, revision, newest)


def _cursor_record(txn: lmdb.Transaction[bytes], cursor: lmdb._Database) -> bytes:
    value = txn.get(records.CURSOR_KEY, db=cursor)
    if value is None:
        raise records.BadRecord("it has no cursor")
    return value


def read_version(txn: lmdb.Transaction[bytes], cursor: lmdb._Database) -> int:
    """
    Return the version of the store's format.

    @raise OtherFormat: this program does not read it.
    """
    value = _cursor_record(txn, cursor)
    records.read_cursor(value)
    return records.read_version(value)


def require_newest_format(txn: lmdb.Transaction[bytes], cursor: lmdb._Database) -> None:
    """
    @raise OtherFormat: the store has to be rewritten before it can be used.
    """
    version = read_version(txn, cursor)
    if version != FORMAT_VERSION:
        raise records.OtherFormat(version)


def check_cursor(
    txn: lmdb.Transaction[bytes], cursor: lmdb._Database, journal: lmdb._Database
) -> tuple[int, int]:
    """
    Read the cursor, and check that the last journal row leads to it.

    @return: (revision, position)
    @raise records.BadRecord: the last journal row does not lead to it.
    """
    found = records.read_cursor(_cursor_record(txn, cursor))
    with txn.cursor(journal) as rows:
        if rows.last():
            _, last = records.read_row_ends(*rows.item())
            if last != found:
                raise records.BadRecord(
                    f"the journal ends at revision {last[0]} and position {last[1]},"
                    f" the cursor is at {found[0]} and {found[1]}"
                )
        elif found != (0, 0):
            raise records.BadRecord(f"the journal of {found[0]} transitions is empty")
    return found


def verify_in_child(path: Path, progress: Progress | None = None) -> None:
    """
    Verify a store as L{verify} does, in a child process, which a damaged store may kill.

    This blocks, as L{ask_child} says.
    """
    ask_child(path, "pexservice.stores.lmdb.verify", str(path), progress=progress)


if __name__ == "__main__":
    sys.exit(answer(partial(verify, Path(sys.argv[1]))))
