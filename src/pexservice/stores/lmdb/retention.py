"""
The removal, by a commit, of rows and keys beyond those that are kept.

One commit removes a bounded number of them, however many are too many, as after the
journal was made shorter: a commit is short, and a worker whose commit takes longer than
the watchdog has patience would be killed and try the same again.  The next commits
remove the rest.
"""

from __future__ import annotations

from itertools import islice

import lmdb

from pexservice.stores.lmdb import records

#: How many revisions, or keys, too many may pile up before they are trimmed.  Each
#: call into LMDB gives up the interpreter lock, so a commit in the thread is the
#: faster the fewer it makes: trim many rows now and then rather than one each time.
SLACK = 256

#: How many rows, or keys, one commit removes at most, which takes about 2 ms.
MOST_TRIMMED = 2 * SLACK

#: Rows that hold so many transitions are enough for one commit, however few rows they
#: are: the pages of a long row are freed one by one.
MOST_TRANSITIONS = 1 << 20


def trim_journal(
    txn: lmdb.Transaction[bytes], journal: lmdb._Database, forgotten: int
) -> int:
    """
    Remove all or some of the oldest rows that hold nothing beyond revision C{forgotten}.

    @return: the first revision of the oldest row that stays.
    """
    with txn.cursor(journal) as rows:
        rows.first()
        begin = oldest = records.read_revision_key(rows.key())
        for _ in range(MOST_TRIMMED):
            # A row ends where the next begins; the newest always stays.
            if oldest - begin >= MOST_TRANSITIONS or not rows.next():
                break
            following = records.read_revision_key(rows.key())
            if following > forgotten + 1:
                break
            rows.prev()
            # This leaves the cursor on the next row.
            if not rows.delete():
                raise records.BadRecord(f"the journal row {oldest} cannot be removed")
            oldest = following
    return oldest


def trim_keys(txn: lmdb.Transaction[bytes], keys: lmdb._Database, count: int) -> None:
    """
    Remove the C{count} oldest idempotency keys.
    """
    with txn.cursor(keys) as aged:
        aged.set_range(records.OLDEST_AGE_KEY)
        oldest = [records.read_aged(*item) for item in islice(aged, count)]
        aged.set_range(records.OLDEST_AGE_KEY)
        # Each removal leaves the cursor on the next key.
        gone = sum(aged.delete() for _ in oldest)
    # In their order in the tree, so that neighbours are found where the last one was.
    names = sorted(map(records.name_key, oldest))
    gone += sum(txn.delete(name, db=keys) for name in names)
    if gone != 2 * count:
        raise records.BadRecord(f"of {count} idempotency keys a record was lost")
