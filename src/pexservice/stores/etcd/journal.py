"""
Reading the history, and removing the oldest idempotency keys.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.gateway import Gateway, call_until_answered
from pexservice.stores.etcd.records import Layout, Message
from pexservice.stores.interface import HistoryEntry

#: How many batches are read at a time.
_PAGE_ROWS = 100


async def history(
    read: Callable[[Message], Coroutine[Any, Any, Message]],
    layout: Layout,
    before: int,
    limit: int,
    kept: int,
) -> list[HistoryEntry]:
    """
    Return durable transitions, newest first; see L{IStore.history}.

    @param read: sends a transaction, and returns its answer.
    @param kept: only this many of the newest transitions are returned.
    """
    entries: list[HistoryEntry] = []
    # The key of a row has the row's last revision.  So a row below this key ends before the
    # revision C{before - 1}, and the first row from this key on contains that revision.
    end = layout.row(before - 1)
    cursor: Message = {"request_range": messages.get(layout.cursor)}
    first_row: Message = {
        "request_range": messages.get(end, layout.rows_end, limit="1", sort_order="ASCEND")
    }
    asked = [cursor, first_row]
    newest: int | None = None
    while True:
        page: Message = {
            "request_range": messages.get(
                *(layout.row(0), end),
                limit=str(_PAGE_ROWS),
                sort_order="DESCEND",
                sort_target="KEY",
            )
        }
        record, *pages = messages.ranges(await read({"success": [*asked, page]}))
        if newest is None:
            newest = records.decode_cursor(record[0]).cursor.revision if record else 0
        for entry in _entries(layout, pages):
            if entry.revision <= newest - kept or len(entries) >= limit:
                return entries
            if entry.revision < before:
                entries.append(entry)
        if len(pages[-1]) < _PAGE_ROWS:
            return entries
        end = b64decode(pages[-1][-1]["key"])
        asked = [cursor]


def _entries(layout: Layout, pages: list[list[Message]]) -> Iterator[HistoryEntry]:
    """
    Yield the transitions of the pages, newest first.
    """
    for page in pages:
        for pair in page:
            last = layout.last_revision(b64decode(pair["key"]))
            yield from reversed(records.decode_journal_row(pair, last))


#: How many idempotency keys one transaction removes, unless a single batch has more.  Also,
#: how many batches are read at a time.
MAX_TRIMMED_KEYS = 100


async def trim_keys(gateway: Gateway, layout: Layout, expired: int) -> None:
    """
    Remove the first C{expired} idempotency keys, but no key of a batch that has later keys.

    Each transaction removes all keys of the oldest batches, and requires that the oldest
    batch is still there.  So it changes nothing if it arrives late, or if another node has
    removed the batch.

    @raise CallRefused: etcd refuses.
    @raise CallUnanswered: etcd does not answer.
    """
    if expired <= 0:
        return
    while True:
        oldest = messages.get(
            *(layout.key_age(0), layout.key_age(expired + 1)),
            limit=str(MAX_TRIMMED_KEYS),
            sort_order="ASCEND",
        )
        answer = await call_until_answered(gateway, "kv/range", oldest)
        names: list[bytes] = []
        ages: list[bytes] = []
        for pair in messages.pairs(answer):
            more = records.decode_names(pair)
            if ages and len(names) + len(more) > MAX_TRIMMED_KEYS:
                break
            ages.append(b64decode(pair["key"]))
            names += more
        if not ages:
            return
        await call_until_answered(
            gateway, "kv/txn", messages.trim_keys(layout, ages[0], ages[-1], names)
        )
