"""
The content of LMDB's transactions: what a commit writes and removes, and what reads return.

A read returns the cursor, the history or the keys.  A commit writes the cursor, appends a
row to the journal, and adds idempotency keys to the rows of keys.  A row of the journal
holds transitions, which are numbered by their revisions.  A row of keys holds idempotency
keys, which are numbered from 1 by their I{ordinals}.  LMDB finds a row by the number of its
I{first item}: a revision in the journal, an ordinal in the rows of keys.

A transition or a key has I{expired} if it need not be kept.  A commit also removes the
oldest rows in which everything has expired, but only a bounded number of them.  If an
operator lowers C{--journal}, very many rows expire at once.  If one commit removed them
all, it could take longer than the watchdog's timeout.  Then the supervisor would kill the
worker, and the next worker would try the same again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import CURSOR_DATABASE, Databases, open_for_reading
from pexservice.stores.lmdb.records import NO_KEYS, BadRecord, KeyRow, StoredCursor
from pexservice.stores.remembered_keys import RememberedKeys

#: A commit looks for expired rows only if more than this many transitions or keys have
#: expired, because the search costs a few calls into LMDB.  Each call releases the
#: interpreter lock, and a commit in a thread must wait until it gets the lock back.
TRIM_SLACK = 256

#: One commit removes at most this many rows, in about 2 ms.
MAX_TRIMMED_ROWS = 2 * TRIM_SLACK

#: One commit removes at most as many transitions as it adds, and this many more; the last
#: removed row may exceed this limit.  The same limit holds for keys.  A limit of rows is
#: not enough, because LMDB frees the pages of a row one by one, and a long row has many.
MAX_EXTRA_TRIMMED_ITEMS = 1 << 12

#: If the newest row has fewer keys than this, the next commit adds keys to that row.  If
#: each commit wrote a new row, a client that sends one step after another would leave a row
#: for each of the 100,000 kept keys.  A start would read these rows in 200 ms instead of
#: 35 ms.
FULL_ROW_KEYS = 64


def read_cursor(txn: lmdb.Transaction[bytes], databases: Databases) -> StoredCursor:
    """
    Read the record of the cursor.

    The journal must end at the cursor's revision and position, and the rows of keys must
    end at the ordinal in the record.

    @raise OtherFormat: this program does not support the version of the cursor's record.
    @raise BadRecord: the journal or the rows of keys end elsewhere.
    """
    record = _read_record(txn, databases.cursor)
    cursor = record.cursor
    with txn.cursor(databases.journal) as row_cursor:
        if row_cursor.last():
            _, end = records.decode_journal_row_ends(*row_cursor.item())
            if end != cursor:
                raise BadRecord(
                    f"the journal ends at revision {end.revision} and position"
                    f" {end.position}, the cursor is at {cursor.revision} and"
                    f" {cursor.position}"
                )
        elif cursor != (0, 0):
            raise BadRecord(f"the journal of {cursor.revision} transitions is empty")
    # Format 1 has no ordinals.
    if record.version == records.FORMAT_VERSION:
        newest_row = _newest_key_row(txn, databases.keys)
        if newest_row.next_ordinal != record.next_ordinal:
            raise BadRecord(
                f"the rows of keys end at ordinal {newest_row.next_ordinal - 1}, the cursor"
                f" is at ordinal {record.next_ordinal - 1}"
            )
    return record


def _read_record(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> StoredCursor:
    value = txn.get(records.CURSOR_KEY, db=database)
    if value is None:
        raise BadRecord("the cursor's record is missing")
    return records.decode_cursor(value)


def _newest_key_row(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> KeyRow:
    with txn.cursor(database) as row_cursor:
        if row_cursor.last():
            return records.decode_key_row(*row_cursor.item())
    return NO_KEYS


def read_format_at(path: Path) -> int:
    """
    Return the version of the format of the store in C{path}.

    This may raise any of the L{LOW_LEVEL_ERRORS}.
    """
    with open_for_reading(path) as env:
        return read_format(env)


def read_format(env: lmdb.Environment) -> int:
    """
    Return the version of the format of an open store.

    @raise OtherFormat: this program does not support that version.
    """
    # A store of another format may have other databases, so only this one is opened.
    cursor_database = env.open_db(CURSOR_DATABASE, create=False)
    with env.begin() as txn:
        return _read_record(txn, cursor_database).version


@frozen
class StoreBounds:
    """
    Where the rows of a store begin and end, in memory, so that no commit searches for it.

    @ivar revision: the newest revision.
    @ivar oldest_revision: the first revision in the oldest row of the journal.
    @ivar oldest_ordinal: the first ordinal in the oldest row of keys.
    @ivar newest_key_row: the newest row of keys; L{NO_KEYS} in a store without keys.
    """

    revision: int
    oldest_revision: int
    oldest_ordinal: int
    newest_key_row: KeyRow


def read_bounds(
    txn: lmdb.Transaction[bytes], databases: Databases, revision: int
) -> StoreBounds:
    return StoreBounds(
        revision,
        _oldest(txn, databases.journal),
        _oldest(txn, databases.keys),
        _newest_key_row(txn, databases.keys),
    )


def _oldest(txn: lmdb.Transaction[bytes], database: lmdb._Database) -> int:
    with txn.cursor(database) as row_cursor:
        if row_cursor.first():
            return records.decode_first_item(row_cursor.key())
    # Revisions of transitions and ordinals begin at 1.
    return 1


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
    Append C{batch} to the store, and remove expired rows.

    @param bounds: the bounds of the store before this batch.
    @return: the bounds of the store after this batch.
    @raise BadRecord: a row begins at the first item of the new row or after it, or an
        expired row cannot be removed.
    """
    _append(txn, databases.journal, records.encode_journal_row(batch))
    newest_key_row = bounds.newest_key_row
    if batch.keys:
        newest_key_row = write_keys(txn, databases.keys, batch.keys, newest_key_row)
    revision, next_ordinal = batch.after.revision, newest_key_row.next_ordinal
    record = records.encode_cursor(batch.after, next_ordinal)
    txn.put(records.CURSOR_KEY, record, db=databases.cursor)
    first_kept_revision = revision + 1 - retention.transitions
    first_kept_ordinal = next_ordinal - retention.keys
    steps, keys = len(batch.transitions), len(batch.keys)
    oldest_revision = _trim(
        txn, databases.journal, bounds.oldest_revision, first_kept_revision, steps
    )
    oldest_ordinal = _trim(
        txn, databases.keys, bounds.oldest_ordinal, first_kept_ordinal, keys
    )
    return StoreBounds(revision, oldest_revision, oldest_ordinal, newest_key_row)


def write_keys(
    txn: lmdb.Transaction[bytes],
    database: lmdb._Database,
    keys: Mapping[bytes, bytes],
    newest_row: KeyRow,
) -> KeyRow:
    """
    Add C{keys} to the row C{newest_row}, or to a new row if C{newest_row} is empty or full.

    @param keys: idempotency keys, each with its packed use; see C{pack_use}.
    @return: the row that now has C{keys} at its end.
    """
    if 0 < newest_row.key_count < FULL_ROW_KEYS:
        row = newest_row.with_keys(keys)
        txn.put(*records.encode_key_row(row), db=database)
    else:
        row = KeyRow(newest_row.next_ordinal, b"", b"").with_keys(keys)
        _append(txn, database, records.encode_key_row(row))
    return row


def _append(
    txn: lmdb.Transaction[bytes], database: lmdb._Database, row: tuple[bytes, bytes]
) -> None:
    if not txn.put(*row, db=database, append=True):
        first_item = records.decode_first_item(row[0])
        raise BadRecord(f"there already is a row that begins at {first_item} or later")


def _trim(
    txn: lmdb.Transaction[bytes],
    database: lmdb._Database,
    oldest: int,
    first_kept: int,
    added: int,
) -> int:
    """
    Remove expired rows of a database.

    @param oldest: the first item of the oldest row.
    @param first_kept: the first revision or ordinal that must be kept.
    @param added: how many transitions or keys this commit has added.
    @return: the first item of the row that is now the oldest one.
    """
    if first_kept - oldest <= TRIM_SLACK:
        return oldest
    # A commit that removed less than it adds would let the store grow.
    trim_end = oldest + added + MAX_EXTRA_TRIMMED_ITEMS
    with txn.cursor(database) as row_cursor:
        oldest_rows = islice(row_cursor.iternext(values=False), MAX_TRIMMED_ROWS + 1)
        first_items = [records.decode_first_item(row) for row in oldest_rows]
        row_cursor.first()
        # These are the LMDB keys of the rows.  A row ends where the next row begins, so the
        # newest row is never removed.
        for first_item, next_first_item in pairwise(first_items):
            if next_first_item > first_kept or first_item >= trim_end:
                break
            # Deleting moves C{row_cursor} to the next row.
            if not row_cursor.delete():
                raise BadRecord(f"the row that begins at {first_item} cannot be removed")
            oldest = next_first_item
    return oldest


def read_history(
    txn: lmdb.Transaction[bytes],
    journal: lmdb._Database,
    *,
    before: int,
    first_kept: int,
    limit: int,
) -> list[HistoryEntry]:
    """
    Return at most C{limit} transitions, newest first.

    A row may hold thousands of transitions.  Only the returned transitions are decoded.

    @param before: return only revisions below this one.  It is at most the revision after
        the newest one.
    @param first_kept: return no revisions below this one.
    """
    history: list[HistoryEntry] = []
    first = max(before - limit, first_kept)
    with txn.cursor(journal) as row_cursor:
        has_newer_row = row_cursor.set_range(records.encode_first_item(before))
        has_row = row_cursor.prev() if has_newer_row else row_cursor.last()
        while has_row and first < before:
            row = records.decode_journal_row(*row_cursor.item(), first, before)
            # The newest row must end just before C{before}, and each other row just before
            # the newer row.
            if not row or row[-1].revision != before - 1:
                raise BadRecord(f"the journal breaks off before revision {before}")
            history += reversed(row)
            before = records.decode_first_item(row_cursor.key())
            has_row = row_cursor.prev()
    return history


class KeyReader:
    """
    Reads the rows of keys in their order, and remembers the idempotency keys.

    @ivar remembered_keys: the keys in the rows that were read.
    @ivar newest_row: the newest row that was read; L{NO_KEYS} before the first row.
    """

    def __init__(self, kept_keys: int) -> None:
        self._kept_keys = kept_keys
        self.forget()

    def forget(self) -> None:
        """
        Forget all rows, because they may belong to a different store.
        """
        self.remembered_keys = RememberedKeys(self._kept_keys)
        self.newest_row = NO_KEYS

    def read(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        """
        Read more rows.

        @param rows: in the first call, all rows.  Later, the row C{newest_row}, which may
            have more keys now, and the rows after it.
        @raise BadRecord: C{newest_row} is missing or has other keys, or there is a gap
            between two rows.
        """
        if self.newest_row is not NO_KEYS:
            first_row = next(rows, None)
            row = NO_KEYS if first_row is None else records.decode_key_row(*first_row)
            if not self.newest_row.is_beginning_of(row):
                raise BadRecord(
                    f"the row of keys {self.newest_row.first_ordinal} was replaced"
                )
            self._remember(row, already_read=self.newest_row.key_count)
        for encoded_row in rows:
            row = records.decode_key_row(*encoded_row)
            follows = row.first_ordinal == self.newest_row.next_ordinal
            # The first row need not begin at ordinal 1: older rows may have been removed.
            if self.newest_row is not NO_KEYS and not follows:
                raise BadRecord(f"the rows of keys break off before {row.first_ordinal}")
            self._remember(row, already_read=0)

    def _remember(self, row: KeyRow, *, already_read: int) -> None:
        self.remembered_keys.add(dict(row.items(already_read)))
        self.newest_row = row


def rows_from(
    txn: lmdb.Transaction[bytes], database: lmdb._Database, first_item: int
) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the row that begins at C{first_item}, and the rows after it.
    """
    with txn.cursor(database) as row_cursor:
        if row_cursor.set_range(records.encode_first_item(first_item)):
            yield from row_cursor
