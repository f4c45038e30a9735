"""
The writes and removals of one commit, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap

import lmdb
from attrs import frozen

from pexservice.stores.interface import Batch, Remembered
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import Databases
from pexservice.stores.lmdb.retention import MOST_TRIMMED, SLACK, trim_journal, trim_keys


@frozen
class Extent:
    """
    The extent of a store, which shows a commit how much there is to trim.

    The commit need not ask LMDB for that.

    @ivar revision: the newest revision.
    @ivar oldest: the first revision of the oldest journal row, which has one batch.
    @ivar keys: how many idempotency keys there are.
    """

    revision: int
    oldest: int
    keys: int


def read_extent(
    txn: lmdb.Transaction[bytes], databases: Databases, revision: int
) -> Extent:
    """
    Return the extent of the store, whose cursor is at C{revision}.
    """
    with txn.cursor(databases.journal) as rows:
        oldest = records.read_revision_key(rows.key()) if rows.first() else 1
    # Each key has a record by its name and one by its age.
    return Extent(revision, oldest, txn.stat(databases.keys)["entries"] // 2)


@frozen
class Kept:
    """
    How many transitions and how many keys are kept; older ones go.
    """

    transitions: int
    keys: int

    def surplus_keys(self, extent: Extent, batch: Batch) -> int:
        """
        Return how many of the oldest keys the commit of C{batch} removes.

        The commit removes none while no more than L{SLACK} are too many.
        """
        surplus = extent.keys + len(batch.keys) - self.keys
        # More keys may go than the batch brings, so that their number comes down.
        return min(surplus, MOST_TRIMMED + len(batch.keys)) if surplus > SLACK else 0


def write_batch(
    txn: lmdb.Transaction[bytes],
    databases: Databases,
    batch: Batch,
    extent: Extent,
    kept: Kept,
) -> Extent:
    """
    Append C{batch} to the store, and remove what is not kept any more.

    @return: the extent of the store then.
    @raise records.BadRecord: the store holds something that this process did not write.
    """
    key, row = records.write_row(batch)
    if not txn.put(key, row, db=databases.journal, append=True):
        raise records.BadRecord(
            f"the journal has rows from revision {batch.first_revision} on already"
        )
    cursor = records.write_cursor(batch.revision, batch.position)
    txn.put(records.CURSOR_KEY, cursor, db=databases.cursor)
    if batch.keys:
        _write_keys(txn, databases.keys, batch.keys)
    oldest, surplus = extent.oldest, kept.surplus_keys(extent, batch)
    if batch.revision - oldest >= kept.transitions + SLACK:
        oldest = trim_journal(txn, databases.journal, batch.revision - kept.transitions)
    if surplus:
        trim_keys(txn, databases.keys, surplus)
    return Extent(batch.revision, oldest, extent.keys + len(batch.keys) - surplus)


def _write_keys(
    txn: lmdb.Transaction[bytes],
    keys: lmdb._Database,
    used: Sequence[tuple[bytes, Remembered]],
) -> None:
    """
    Write idempotency keys, which were not used before.
    """
    by_name, by_age = zip(*starmap(records.write_remembered, used), strict=True)
    with txn.cursor(keys) as cursor:
        # The records by name go in the order of the tree.  Those by age can be appended:
        # the newest come behind all others.
        _, named = cursor.putmulti(sorted(by_name), overwrite=False)
        _, aged = cursor.putmulti(by_age, overwrite=False, append=True)
    if not named == aged == len(used):
        raise records.BadRecord("an idempotency key has a record already")
