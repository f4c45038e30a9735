"""
The content of LMDB's transactions: what a commit writes and removes, and what reads return.

A read returns the cursor, the history or the keys.  A commit writes the cursor, appends a
row to the journal, and adds idempotency keys to the rows of keys.  It also removes the
oldest rows if they need not be kept.

One commit removes a bounded number of rows, and the next commits remove the rest.  There
may be very many such rows, for example after an operator made the journal shorter.  If one
commit removed them all, it could take longer than the watchdog's timeout.  Then the
supervisor would kill the worker, and the next worker would try the same again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import DATABASES, Databases, open_for_reading
from pexservice.stores.lmdb.records import NO_KEYS, BadRecord, KeyRow, StoredCursor
from pexservice.stores.remembered_keys import RememberedKeys

#: A store may have this many more revisions or keys than must be kept.  A commit removes
#: rows only if there are more than that.  So most commits do not call LMDB to remove rows,
#: and a few commits remove many.  Calls into LMDB release the interpreter lock, and a
#: commit in the other thread must wait for this lock after each call.
TRIM_SLACK = 256

#: One commit removes at most this many rows, in about 2 ms.
MAX_TRIMMED_ROWS = 2 * TRIM_SLACK

#: A commit stops removing rows when it has removed this many transitions, or this many
#: keys.  The limit on the number of rows is not sufficient: a long row has many pages,
#: and LMDB frees them one by one.
MAX_TRIMMED_TRANSITIONS = 1 << 20
MAX_TRIMMED_ROW_KEYS = 1 << 12

#: If the newest row has fewer keys than this, the next commit adds keys to that row.  If
#: each commit wrote a new row, a single client would leave 100,000 rows.  A start would
#: read these rows in 200 ms instead of 35 ms.
FULL_ROW_KEYS = 64


def read_cursor(txn: lmdb.Transaction[bytes], databases: Databases) -> StoredCursor:
    """
    Read the cursor, and check that the last rows of journal and keys lead to it.

    @raise OtherFormat: this program does not read the version of the cursor's record.
    @raise BadRecord: the last row of journal or keys does not lead to the cursor.
    """
    record = _read_record(txn, databases.cursor)
    cursor = record.cursor
    with txn.cursor(databases.journal) as rows:
        if rows.last():
            _, end = records.decode_journal_row_ends(*rows.item())
            if end != cursor:
                raise BadRecord(
                    f"the journal ends at revision {end.revision} and position"
                    f" {end.position}, the cursor is at {cursor.revision} and"
                    f" {cursor.position}"
                )
        elif cursor != (0, 0):
            raise BadRecord(f"the journal of {cursor.revision} transitions is empty")
    if record.version == records.FORMAT_VERSION:
        newest = _newest_key_row(txn, databases.keys)
        if newest.next_ordinal != record.next_ordinal:
            raise BadRecord(
                f"the rows of keys end at ordinal {newest.next_ordinal - 1}, the cursor is"
                f" at ordinal {record.next_ordinal - 1}"
            )
    return record


def _read_record(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> StoredCursor:
    value = txn.get(records.CURSOR_KEY, db=database)
    if value is None:
        raise BadRecord("it has no cursor")
    return records.decode_cursor(value)


def _newest_key_row(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> KeyRow:
    with txn.cursor(database) as rows:
        return records.decode_key_row(*rows.item()) if rows.last() else NO_KEYS


def format_of(path: Path) -> int:
    """
    Return the version of a store's format.  It raises L{LOW_LEVEL_ERRORS}.
    """
    with open_for_reading(path) as env:
        return read_version(env)


def read_version(env: lmdb.Environment) -> int:
    """
    Return the version of the format of an open store.

    @raise OtherFormat: this program does not read that version.
    """
    # A store of another format may have other databases, so only this one is opened.
    cursor_database = env.open_db(DATABASES[0], create=False)
    with env.begin() as txn:
        return _read_record(txn, cursor_database).version


@frozen
class StoreBounds:
    """
    The oldest and newest rows of a store, kept in memory so that no commit searches them.

    @ivar revision: the newest revision.
    @ivar oldest_journal_row: the first revision of the oldest journal row.
    @ivar oldest_key_row: the first ordinal of the oldest row of keys.
    @ivar newest_key_row: the newest row of keys; an empty row in a store without keys.
    """

    revision: int
    oldest_journal_row: int
    oldest_key_row: int
    newest_key_row: KeyRow


BOUNDS_OF_EMPTY_STORE = StoreBounds(0, 1, 1, NO_KEYS)


def read_bounds(
    txn: lmdb.Transaction[bytes], databases: Databases, revision: int
) -> StoreBounds:
    """
    Read the bounds of a store whose cursor is at C{revision}.
    """
    return StoreBounds(
        revision,
        _oldest(txn, databases.journal),
        _oldest(txn, databases.keys),
        _newest_key_row(txn, databases.keys),
    )


def _oldest(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> int:
    with txn.cursor(database) as rows:
        return records.decode_row_key(rows.key()) if rows.first() else 1


@frozen
class Retention:
    """
    How many transitions and how many keys a store keeps at least.
    """

    transitions: int
    keys: int


def write_batch(
    txn: lmdb.Transaction[bytes],
    databases: Databases,
    batch: Batch,
    bounds: StoreBounds,
    retention: Retention,
) -> StoreBounds:
    """
    Append C{batch} to the store, and remove the oldest rows if they need not be kept.

    @param bounds: the bounds of the store before this batch.
    @return: the bounds of the store after this batch.
    @raise BadRecord: the store holds something that this process did not write.
    """
    _append(txn, databases.journal, *records.encode_journal_row(batch))
    newest_key_row = bounds.newest_key_row
    if batch.keys:
        newest_key_row = write_keys(txn, databases.keys, batch.keys, newest_key_row)
    revision = batch.after.revision
    cursor = records.encode_cursor(batch.after, newest_key_row.next_ordinal)
    txn.put(records.CURSOR_KEY, cursor, db=databases.cursor)
    oldest_journal_row, oldest_key_row = bounds.oldest_journal_row, bounds.oldest_key_row
    newest_expired = revision - retention.transitions
    if newest_expired >= oldest_journal_row + TRIM_SLACK:
        oldest_journal_row = _trim(
            txn, databases.journal, newest_expired, MAX_TRIMMED_TRANSITIONS
        )
    newest_expired = newest_key_row.next_ordinal - 1 - retention.keys
    if newest_expired >= oldest_key_row + TRIM_SLACK:
        # A commit must be able to remove more keys than it adds.  Otherwise the number of
        # keys would never decrease.
        max_keys = MAX_TRIMMED_ROW_KEYS + len(batch.keys)
        oldest_key_row = _trim(txn, databases.keys, newest_expired, max_keys)
    return StoreBounds(revision, oldest_journal_row, oldest_key_row, newest_key_row)


def write_keys(
    txn: lmdb.Transaction[bytes],
    database: lmdb._Database,
    keys: Mapping[bytes, bytes],
    newest: KeyRow,
) -> KeyRow:
    """
    Add C{keys}, each with its packed use, to the row C{newest}, or write a new row.

    @return: the row that now has C{keys} at its end.
    """
    if 0 < newest.key_count < FULL_ROW_KEYS:
        row = newest.with_keys(keys)
        txn.put(*records.encode_key_row(row), db=database)
    else:
        row = KeyRow(newest.next_ordinal, b"", b"").with_keys(keys)
        _append(txn, database, *records.encode_key_row(row))
    return row


def _append(
    txn: lmdb.Transaction[bytes], database: lmdb._Database, key: bytes, value: bytes
) -> None:
    if not txn.put(key, value, db=database, append=True):
        raise BadRecord(f"there already is a row from {records.decode_row_key(key)} on")


def _trim(
    txn: lmdb.Transaction[bytes],
    database: lmdb._Database,
    newest_expired: int,
    max_items: int,
) -> int:
    """
    Remove at most L{MAX_TRIMMED_ROWS} rows that hold nothing newer than C{newest_expired}.

    @param newest_expired: the newest revision or ordinal that need not be kept.
    @param max_items: stop when the removed rows had this many revisions or ordinals.
    @return: the first revision or ordinal of the oldest row that stays.
    """
    with txn.cursor(database) as rows:
        rows.first()
        begin = oldest = records.decode_row_key(rows.key())
        for _ in range(MAX_TRIMMED_ROWS):
            # A row ends where the next row begins.  The newest row is never removed.
            if oldest - begin >= max_items or not rows.next():
                break
            following = records.decode_row_key(rows.key())
            if following > newest_expired + 1:
                break
            rows.prev()
            # Deleting moves the cursor to the next row.
            if not rows.delete():
                raise BadRecord(f"the row {oldest} cannot be removed")
            oldest = following
    return oldest


def read_history(
    txn: lmdb.Transaction[bytes],
    journal: lmdb._Database,
    *,
    before: int,
    newest_expired: int,
    limit: int,
) -> list[HistoryEntry]:
    """
    Return at most C{limit} transitions, newest first.

    A row may hold thousands of transitions.  Only the returned transitions are decoded.

    @param before: return only revisions below this one.
    @param newest_expired: return only revisions above this one.
    """
    history: list[HistoryEntry] = []
    with txn.cursor(journal) as rows:
        beyond = rows.set_range(records.row_key(before))
        more = rows.prev() if beyond else rows.last()
        while more:
            first = max(before - (limit - len(history)), newest_expired + 1)
            if first >= before:
                break
            row = records.decode_journal_row(*rows.item(), first, before)
            # Each row must end where the newer row begins.
            if not row or row[-1].revision != before - 1:
                raise BadRecord(f"the journal breaks off before revision {before}")
            history += reversed(row)
            before = records.decode_row_key(rows.key())
            more = rows.prev()
    return history


class KeyReader:
    """
    Reads the rows of keys in their order, and remembers their keys.

    @ivar remembered_keys: the keys in the rows that were read.
    @ivar newest: the newest row that was read; at first L{NO_KEYS}.
    """

    def __init__(self, kept_keys: int) -> None:
        self._kept_keys = kept_keys
        self.forget()

    def forget(self) -> None:
        """
        Forget all rows, because they may belong to another store.
        """
        self.remembered_keys = RememberedKeys(self._kept_keys)
        self.newest = NO_KEYS

    def read(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        """
        Read more rows.

        @param rows: the rows from C{newest.first_ordinal} on; at first, all rows.
        @raise BadRecord: C{newest} is missing or was replaced, or another row is missing.
        """
        if self.newest.uses:
            row = records.decode_key_row(*next(rows, (b"", b"")))
            if not self.newest.is_beginning_of(row):
                raise BadRecord(f"the row of keys {self.newest.first_ordinal} was replaced")
            self._add(row, known=self.newest.key_count)
        for key, value in rows:
            row = records.decode_key_row(key, value)
            if self.newest.uses and row.first_ordinal != self.newest.next_ordinal:
                raise BadRecord(f"the rows of keys break off before {row.first_ordinal}")
            self._add(row, known=0)

    def _add(self, row: KeyRow, known: int) -> None:
        self.remembered_keys.add(dict(row.items(known)))
        self.newest = row


def rows_from(
    txn: lmdb.Transaction[bytes], database: lmdb._Database, first: int
) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the rows from the revision or ordinal C{first} on.
    """
    with txn.cursor(database) as rows:
        if rows.set_range(records.row_key(first)):
            yield from rows
