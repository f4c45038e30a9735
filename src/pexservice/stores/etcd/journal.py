"""
Functions that read the history, and remove the oldest idempotency keys.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.gateway import Gateway, call_until_answered
from pexservice.stores.etcd.records import Layout, Message
from pexservice.stores.interface import HistoryEntry

#: How many journal rows are read at a time.
_PAGE_ROWS = 100


async def read_history(
    gateway: Gateway, layout: Layout, before: int, limit: int, kept: int
) -> list[HistoryEntry]:
    """
    Return at most C{limit} durable transitions below C{before}, newest first.

    @param kept: how many transitions the history keeps.  Older transitions that etcd still
        has are left out.
    @raise Refusal: etcd does not answer, or a record cannot be from this program.
    """
    entries: list[HistoryEntry] = []
    while True:
        # The newest wanted revision is before - 1.  The key of a row has the row's last
        # revision.  So the first row from the key C{end} on contains before - 1, and all
        # rows below this key are older.
        end = layout.row(before - 1)
        older = {"limit": str(_PAGE_ROWS), "sort_order": "DESCEND", "sort_target": "KEY"}
        reads = (
            messages.get(layout.cursor),
            messages.get(end, layout.rows_end, limit="1", sort_order="ASCEND"),
            messages.get(layout.row(0), end, **older),
        )
        message = {"success": [{"request_range": read} for read in reads]}
        answer = await call_until_answered(gateway, "kv/txn", message)
        record, *pages = messages.ranges(answer)
        newest = records.decode_cursor(record[0]).cursor.revision if record else 0
        for entry in _entries(layout, pages):
            if entry.revision <= newest - kept or len(entries) >= limit:
                return entries
            if entry.revision < before:
                entries.append(entry)
        if len(pages[-1]) < _PAGE_ROWS:
            return entries
        before = entries[-1].revision


def _entries(layout: Layout, pages: list[list[Message]]) -> Iterator[HistoryEntry]:
    """
    Yield the transitions of the journal rows in C{pages}, newest first.
    """
    for page in pages:
        for pair in page:
            last = layout.last_revision(b64decode(pair["key"]))
            yield from reversed(records.decode_journal_row(pair, last))


#: How many idempotency keys one transaction removes, unless the oldest batch has more keys.
#: Also, how many batches are read at a time.
MAX_REMOVED_KEYS = 100


async def remove_oldest_keys(gateway: Gateway, layout: Layout, newest_expired: int) -> None:
    """
    Remove the idempotency keys of each batch whose last key is at most C{newest_expired}.

    Each transaction removes all keys of some batches, and requires that the list of the
    oldest of these batches is still in etcd.  So a transaction that arrives late, or after
    another node has removed these keys, changes nothing.

    @param newest_expired: the ordinal of the newest key that need not be kept, which is the
        number of this key in the order of first uses; 0 or less if all keys must be kept.
    @raise Refusal: etcd refuses or does not answer, or a record is not of this program.
    """
    if newest_expired <= 0:
        return
    while True:
        oldest = messages.get(
            *(layout.key_list(0), layout.key_list(newest_expired + 1)),
            limit=str(MAX_REMOVED_KEYS),
            sort_order="ASCEND",
        )
        answer = await call_until_answered(gateway, "kv/range", oldest)
        names: list[bytes] = []
        lists: list[bytes] = []
        for pair in messages.pairs(answer):
            more = records.decode_key_list(pair)
            if lists and len(names) + len(more) > MAX_REMOVED_KEYS:
                break
            lists.append(b64decode(pair["key"]))
            names += more
        if not lists:
            return
        await call_until_answered(
            gateway, "kv/txn", messages.remove_keys(layout, lists[0], lists[-1], names)
        )
