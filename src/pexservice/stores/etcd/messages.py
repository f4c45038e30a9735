"""
The messages to etcd: reads of one or more keys, and transactions.

All functions are pure.  A message is sent to the gateway as JSON.  In a transaction,
C{compare} is a list of conditions.  If all are true, etcd executes the operations of the
branch C{success}, otherwise those of the branch C{failure}.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from pexservice.core.cursor import INITIAL, Cursor
from pexservice.stores.errors import Refusal
from pexservice.stores.etcd import records
from pexservice.stores.etcd.records import CursorRecord, Layout, Mark, Message
from pexservice.stores.etcd.turn_queue import TurnQueue
from pexservice.stores.interface import Batch
from pexservice.stores.remembered_keys import KeyUse, unpack_use

#: How many idempotency keys one batch may have.  etcd accepts 128 operations in a branch of
#: a transaction, and a branch has up to 15 operations for other purposes.
MAX_BATCH_KEYS = 100

#: How many marks of the L{TurnQueue} are read, the oldest first.  Each node that waits for
#: a turn has one mark.  The marks of dead nodes remain until other nodes remove them.
MAX_MARKS = 64


def get(key: bytes, end: bytes | None = None, **more: object) -> Message:
    """
    Return the message for a linearizable read of C{key}.

    @param end: if it is given, all keys from C{key} on and before C{end} are read.
    """
    message: Message = {"key": records.base64_text(key), **more}
    if end is not None:
        message["range_end"] = records.base64_text(end)
    return message


def put(key: bytes, value: str, **more: object) -> Message:
    return {"request_put": {"key": records.base64_text(key), "value": value, **more}}


def delete(key: bytes, end: bytes | None = None) -> Message:
    return {"request_delete_range": get(key, end)}


def _compare(key: bytes, target: str, result: str, revision: int) -> Message:
    # Do not misspell a field: etcd ignores unknown fields, and has defaults for missing
    # fields.  So the comparison would change without an error.
    return {
        "key": records.base64_text(key),
        "target": target,
        "result": result,
        f"{target.lower()}_revision": str(revision),
    }


def _is_still(layout: Layout, base: CursorRecord) -> list[Message]:
    """
    Return the conditions that the cursor's record is still C{base}.

    The revision alone proves nothing: after etcd was restored from a snapshot, it uses the
    same revisions again for other batches.
    """
    value = {
        "key": records.base64_text(layout.cursor),
        "target": "VALUE",
        "result": "EQUAL",
    }
    return [
        _compare(layout.cursor, "MOD", "EQUAL", base.mod_revision),
        {**value, "value": base.value},
    ]


def _exists(key: bytes) -> Message:
    return _compare(key, "CREATE", "GREATER", 0)


def _is_new(key: bytes) -> Message:
    return _compare(key, "CREATE", "EQUAL", 0)


@frozen
class LastBatchKey:
    """
    The key in etcd with the number of the last batch of a process that was stored.

    See L{pexservice.stores.etcd.decision}.

    @ivar name: the key.
    @ivar number: the number of the process's present batch.  The batch's transaction writes
        the number into the key.
    @ivar lease: the lease that removes the key some time after the process has ended.
    """

    name: bytes
    number: int
    lease: str


def _put_batch_number(last_batch_key: LastBatchKey) -> Message:
    number = records.encode_batch_number(last_batch_key.number)
    return put(last_batch_key.name, number, lease=last_batch_key.lease)


def create_last_batch_key(last_batch_key: LastBatchKey) -> Message:
    return {
        "compare": [_is_new(last_batch_key.name)],
        "success": [_put_batch_number(last_batch_key)],
    }


def create(layout: Layout, journal: int) -> Message:
    """
    Return the transaction that creates a store, unless one exists, and reads its cursor.
    """
    value = records.encode_cursor(INITIAL.cursor, 0, "", journal)
    read = {"request_range": get(layout.cursor)}
    return {
        "compare": [_is_new(layout.cursor)],
        "success": [put(layout.cursor, value), read],
        "failure": [read],
    }


def find_cursor(layout: Layout) -> Message:
    """
    Return the transaction that reads the cursor, and looks for other keys of a store.

    It ignores last-batch keys and marks.  They do not show that there is a store, because
    nodes that run while etcd is emptied put them again.
    """
    others = (
        (layout.prefix, layout.last_batch("")),
        (records.end_of(layout.last_batch("")), layout.mark("")),
        (records.end_of(layout.mark("")), records.end_of(layout.prefix)),
    )
    return {
        "success": [
            {"request_range": get(layout.cursor)},
            *({"request_range": get(*between, limit="1")} for between in others),
        ]
    }


def probe(layout: Layout) -> Message:
    """
    Return a transaction that etcd refuses if it would refuse a batch.

    The transaction contains writes, so etcd checks its space, its quorum and the user's
    permission.  But its condition is never true, so it changes nothing.  It passes through
    etcd's log, so its answer has the present cursor, even from a member that answers reads
    with an old state.
    """
    keys = (layout.cursor, layout.row(0), layout.last_batch(""), layout.mark(""))
    return {
        "compare": [_compare(layout.cursor, "MOD", "LESS", 0)],
        "success": [put(key, "") for key in keys],
        "failure": [{"request_range": get(layout.cursor)}],
    }


def advance(layout: Layout, base: CursorRecord, revision: int, journal: int) -> Message:
    """
    Return the transaction that gives C{revision} to the cursor, if its record is C{base}.

    All nodes are stopped, so the transaction also removes their marks and last-batch keys.
    """
    value = records.encode_cursor(
        Cursor(revision, base.cursor.position), base.key_count, "", base.journal or journal
    )
    return {
        "compare": _is_still(layout, base),
        "success": [
            put(layout.cursor, value),
            delete(layout.last_batch(""), records.end_of(layout.last_batch(""))),
            delete(layout.mark(""), records.end_of(layout.mark(""))),
        ],
    }


def commit(
    layout: Layout,
    base: CursorRecord,
    batch: Batch,
    last_batch_key: LastBatchKey,
    *,
    queue: TurnQueue,
    journal: int,
    newest_expired: int | None = None,
) -> Message:
    """
    Return the transaction that writes C{batch} if three conditions are true.

    The conditions are: the cursor's record is still C{base}, the last-batch key exists, and
    none of the batch's idempotency keys was used before.

    If a transaction puts a key with a lease that has ended, etcd refuses the whole
    transaction, and the answer does not have the cursor.  So only the last-batch key has a
    lease: the second condition ensures that this lease has not ended.

    @param queue: the queue of the nodes that take turns, as this node sees it.
    @param journal: how many transitions the history keeps.
    @param newest_expired: the newest revision to remove from the journal, if any.
    """
    names = batch.keys
    ordinal = base.key_count + len(names)
    value = records.encode_cursor(batch.after, ordinal, queue.node, journal)
    success = [
        put(layout.cursor, value),
        put(layout.row(batch.after.revision), records.encode_journal_row(batch)),
        _put_batch_number(last_batch_key),
        *(
            put(layout.key_use(name), records.encode_key_use(unpack_use(use)))
            for name, use in batch.keys.items()
        ),
    ]
    if names:
        success.append(put(layout.key_list(ordinal), records.encode_key_list(names)))
    if newest_expired is not None:
        success.append(delete(layout.row(0), layout.row(newest_expired + 1)))
    own_mark = layout.mark(queue.node)
    success += [
        # etcd refuses a transaction that both puts and deletes a key.
        put(own_mark, records.encode_mark(queue.usual_seconds, hard=False))
        if queue.keeps_place
        else delete(own_mark),
        *(
            _delete_if_unchanged(layout.mark(mark.node), mark.mod_revision)
            for mark in queue.overdue_marks
        ),
        _marks(layout),
    ]
    return {
        "compare": [
            *_is_still(layout, base),
            _exists(last_batch_key.name),
            *(_is_new(layout.key_use(name)) for name in names),
        ],
        "success": success,
        "failure": [
            *_state(layout, last_batch_key, names),
            # If this node has a place in the queue, it keeps this place.
            {
                "request_txn": {
                    "compare": [_is_new(own_mark)],
                    "success": [
                        put(own_mark, records.encode_mark(queue.usual_seconds, hard=True))
                    ],
                }
            },
            _marks(layout),
        ],
    }


def observe(
    layout: Layout, last_batch_key: LastBatchKey, names: Iterable[bytes]
) -> Message:
    """
    Return a transaction that reads the same keys as a L{commit} that has failed.
    """
    return {"success": [*_state(layout, last_batch_key, names), _marks(layout)]}


def _state(
    layout: Layout, last_batch_key: LastBatchKey, names: Iterable[bytes]
) -> list[Message]:
    return [
        {"request_range": get(key)}
        for key in (layout.cursor, last_batch_key.name, *map(layout.key_use, names))
    ]


def _marks(layout: Layout) -> Message:
    return {
        "request_range": get(
            layout.mark(""),
            records.end_of(layout.mark("")),
            sort_target="MOD",
            sort_order="ASCEND",
            limit=str(MAX_MARKS),
        )
    }


def _delete_if_unchanged(key: bytes, mod_revision: int) -> Message:
    """
    Return the operation that deletes C{key}, unless C{key} was put again.
    """
    return {
        "request_txn": {
            "compare": [_compare(key, "MOD", "EQUAL", mod_revision)],
            "success": [delete(key)],
        }
    }


@frozen
class Observation:
    """
    The state of etcd in the answer to the transaction of a batch.

    @ivar revision: etcd's revision in the answer.
    @ivar record: the cursor's record.
    @ivar last_batch: the number in the last-batch key; C{None} if this key does not exist,
        so that the process must make a new one.
    @ivar used: the batch's idempotency keys that were used before, each with its first use.
    @ivar marks: the marks in the queue of nodes, in the order of the queue.
    """

    revision: int
    record: CursorRecord
    last_batch: int | None
    used: Mapping[bytes, KeyUse | Refusal]
    marks: Sequence[Mark]


def decode_observation(
    layout: Layout, answer: Message, names: Iterable[bytes]
) -> Observation:
    """
    Decode the answer to a L{commit} that has failed, or to an L{observe}.

    @param names: the batch's idempotency keys.
    @raise ForeignRecord: the cursor is missing, or a record cannot be from this program.
    """
    cursor, last_batch, *used, _ = ranges(answer)
    return Observation(
        int(answer["header"]["revision"]),
        only_cursor(layout, cursor),
        records.decode_batch_number(last_batch[0]) if last_batch else None,
        {
            name: _key_use_or_refusal(pair[0])
            for name, pair in zip(names, used, strict=True)
            if pair
        },
        decode_marks(layout, answer),
    )


def _key_use_or_refusal(pair: Message) -> KeyUse | Refusal:
    """
    Decode the first use of an idempotency key.

    @return: a L{Refusal} if the record cannot be decoded, so that only requests with this
        key fail.
    """
    try:
        return records.decode_key_use(pair)
    except records.ForeignRecord as error:
        return error


def only_cursor(layout: Layout, found: Sequence[Message]) -> CursorRecord:
    """
    Decode the cursor's record in the answer to a read of its key.

    @raise ForeignRecord: the cursor is missing, or the record cannot be from this program.
    """
    if not found:
        raise records.ForeignRecord(
            f"etcd has lost the key {layout.cursor.decode()}; restore etcd from a snapshot,"
            f" or delete all keys with the prefix {layout.prefix.decode()} and run pexctl"
            " create"
        )
    return records.decode_cursor(found[0])


def decode_marks(layout: Layout, answer: Message) -> list[Mark]:
    """
    Decode the marks in the answer to a L{commit}, in the order of the queue.
    """
    marks = pairs(answer["responses"][-1]["response_range"])
    return [records.decode_mark(layout, pair) for pair in marks]


def pairs(answer: Message) -> list[Message]:
    """
    Return the keys and values in the answer to a read.
    """
    keys_and_values: list[Message] = answer.get("kvs", [])
    return keys_and_values


def ranges(answer: Message) -> Iterator[list[Message]]:
    """
    Yield the keys and values of each read in the answer to a transaction.

    The answers of nested transactions are left out, because nothing in them is needed.
    """
    for response in answer["responses"]:
        if "response_range" in response:
            yield pairs(response["response_range"])


def remove_keys(
    layout: Layout, oldest: bytes, newest: bytes, names: Iterable[bytes]
) -> Message:
    """
    Return the transaction that removes the idempotency keys C{names}.

    If another node has removed them before, the transaction changes nothing, because
    clients may have used these keys again since then.

    @param oldest: the L{Layout.key_list} of the first batch with keys in C{names}.
    @param newest: the L{Layout.key_list} of the last batch with keys in C{names}.
    """
    return {
        "compare": [_exists(oldest)],
        "success": [
            delete(oldest, newest + b"\0"),
            *(delete(layout.key_use(name)) for name in names),
        ],
    }
