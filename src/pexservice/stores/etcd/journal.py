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
    before: int | None,
    limit: int,
    kept: int,
) -> list[HistoryEntry]:
    """
    Return durable transitions, newest first; see L{IStore.history}.

    @param read: sends a transaction, and returns its answer.
    @param kept: only this many of the newest transitions are returned.
    """
    history_rows: list[HistoryEntry] = []
    # The key of a row has the row's last revision.  So a row below the key of a revision
    # ends before that revision, and the first row from that key on contains it.
    end = layout.rows_end
    if before is not None:
        end = layout.row(min(before - 1, records.MAX_NUMBER))
    whole: Message = {
        "request_range": messages.get(
            *(layout.row(0), end),
            limit=str(_PAGE_ROWS),
            sort_order="DESCEND",
            sort_target="KEY",
        )
    }
    partly: Message = {
        "request_range": messages.get(end, layout.rows_end, limit="1", sort_order="ASCEND")
    }
    cursor: Message = {"request_range": messages.get(layout.cursor)}
    asked = [cursor, whole] if before is None else [cursor, partly, whole]
    answer = await read({"success": asked})
    newest: int | None = None
    while True:
        at, *pages = messages.ranges(answer)
        if newest is None:
            newest = records.decode_cursor(at[0]).revision if at else 0
        for row in _rows(layout, pages):
            if row.revision <= newest - kept or len(history_rows) >= limit:
                return history_rows
            if before is None or row.revision < before:
                history_rows.append(row)
        if len(pages[-1]) < _PAGE_ROWS:
            return history_rows
        end = b64decode(pages[-1][-1]["key"])
        whole["request_range"]["range_end"] = records.text(end)
        answer = await read({"success": [cursor, whole]})


def _rows(layout: Layout, pages: list[list[Message]]) -> Iterator[HistoryEntry]:
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


async def trim(gateway: Gateway, layout: Layout, expired: int) -> None:
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
            gateway, "kv/txn", messages.trimming(layout, ages[0], ages[-1], names)
        )
