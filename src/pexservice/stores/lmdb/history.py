"""
The reading of the journal, backwards.
"""

from __future__ import annotations

import lmdb

from pexservice.stores.interface import Row
from pexservice.stores.lmdb import records


def read_history(
    txn: lmdb.Transaction[bytes],
    journal: lmdb._Database,
    *,
    before: int,
    forgotten: int,
    limit: int,
) -> list[Row]:
    """
    Return at most C{limit} transitions, newest first.

    A row may hold thousands of transitions; no more of them are replayed than are returned.

    @param before: the revision that follows the newest transition to return.
    @param forgotten: the newest revision that is not kept any more.
    """
    found: list[Row] = []
    with txn.cursor(journal) as rows:
        beyond = rows.set_range(records.revision_key(before))
        more = rows.prev() if beyond else rows.last()
        while more:
            first = max(before - (limit - len(found)), forgotten + 1)
            if first >= before:
                break
            row = records.read_row(*rows.item(), first, before)
            if not row or row[-1].revision != before - 1:
                raise records.BadRecord(f"the journal breaks off before revision {before}")
            found += reversed(row)
            before = records.read_revision_key(rows.key())
            more = rows.prev()
    return found
