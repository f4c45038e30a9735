"""
The messages to etcd: ranges, and the transactions that move the cursor.

All functions are pure.  A message is sent to the gateway as JSON.
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

#: How many marks are read, the oldest first.  Each node has one mark.  A few marks are of
#: processes that have died, until another node passes over them and removes them.
MAX_MARKS = 64


def get(key: bytes, end: bytes | None = None, **more: object) -> Message:
    """
    Return the message that reads C{key}, or the keys from C{key} to before C{end}.

    The read is linearizable.
    """
    message: Message = {"key": records.text(key), **more}
    if end is not None:
        message["range_end"] = records.text(end)
    return message


def _put(key: bytes, value: str, **more: object) -> Message:
    return {"request_put": {"key": records.text(key), "value": value, **more}}


def _delete(key: bytes, end: bytes | None = None) -> Message:
    return {"request_delete_range": get(key, end)}


def _compare(key: bytes, target: str, result: str, revision: int) -> Message:
    # etcd ignores unknown fields and has defaults for missing ones, so a misspelled field
    # would change the comparison without an error.
    return {
        "key": records.text(key),
        "target": target,
        "result": result,
        f"{target.lower()}_revision": str(revision),
    }


def _is_still(layout: Layout, base: CursorRecord) -> list[Message]:
    """
    Return the conditions that the cursor is C{base}.

    After etcd was restored from a snapshot, it uses revisions again for other batches, so
    the revision alone proves nothing.
    """
    value = {"key": records.text(layout.cursor), "target": "VALUE", "result": "EQUAL"}
    return [
        _compare(layout.cursor, "MOD", "EQUAL", base.mod_revision),
        {**value, "value": base.value},
    ]


def _exists(key: bytes) -> Message:
    return _compare(key, "CREATE", "GREATER", 0)


def _is_new(key: bytes) -> Message:
    return _compare(key, "CREATE", "EQUAL", 0)


@frozen
class OperationKey:
    """
    The operation key of a process, which shows whether a batch of this process is stored.

    @ivar name: the key in etcd.  It exists before the batch.
    @ivar number: the number of the batch, which the key has as its value after the batch.
    @ivar lease: the lease that removes the key some time after the process has ended.
    """

    name: bytes
    number: int
    lease: str


def _put_operation(operation: OperationKey) -> Message:
    number = records.encode_operation(operation.number)
    return _put(operation.name, number, lease=operation.lease)


def begin_operations(operation: OperationKey) -> Message:
    return {
        "compare": [_is_new(operation.name)],
        "success": [_put_operation(operation)],
    }


def create(layout: Layout, journal: int) -> Message:
    """
    Return the transaction that creates a store, unless one exists.
    """
    value = records.encode_cursor(INITIAL.cursor, 0, "", journal)
    return {
        "compare": [_is_new(layout.cursor)],
        "success": [_put(layout.cursor, value)],
    }


def find_cursor(layout: Layout) -> Message:
    """
    Return the transaction that reads the cursor, and finds other keys of a store.

    Operation keys and marks do not count: running nodes put them into an emptied etcd.
    """
    others = (
        (layout.prefix, layout.operation("")),
        (records.end_of(layout.operation("")), layout.mark("")),
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
    Return a transaction that etcd refuses if it would refuse a batch.  It changes nothing.

    The transaction contains writes, so etcd checks its space, its quorum and the user's
    permission.  But its condition never holds.  It passes through etcd's log, so its answer
    has the present cursor, even from a member that answers reads with an old state.
    """
    keys = (layout.cursor, layout.row(0), layout.operation(""), layout.mark(""))
    return {
        "compare": [_compare(layout.cursor, "MOD", "LESS", 0)],
        "success": [_put(key, "") for key in keys],
        "failure": [{"request_range": get(layout.cursor)}],
    }


def advance(layout: Layout, base: CursorRecord, revision: int, journal: int) -> Message:
    """
    Return the transaction that gives the cursor another revision, if it still is C{base}.

    All nodes are stopped, so their marks and operation keys are removed.
    """
    value = records.encode_cursor(
        Cursor(revision, base.cursor.position), base.key_count, "", base.journal or journal
    )
    return {
        "compare": _is_still(layout, base),
        "success": [
            _put(layout.cursor, value),
            _delete(layout.operation(""), records.end_of(layout.operation(""))),
            _delete(layout.mark(""), records.end_of(layout.mark(""))),
        ],
    }


def commit(
    layout: Layout,
    base: CursorRecord,
    batch: Batch,
    operation: OperationKey,
    *,
    queue: TurnQueue,
    journal: int,
    expired: int | None = None,
) -> Message:
    """
    Return the transaction that writes C{batch}, under three conditions.

    The cursor is still C{base}, the operation key exists, and none of the batch's
    idempotency keys was used before.

    Only the operation key has a lease.  While this key exists, the lease does.  If another
    put had a lease, and the lease had ended, etcd would refuse the whole transaction, and
    its answer would not have the cursor.

    @param queue: the queue of the nodes that take turns, as this node sees it.
    @param journal: how many transitions the history keeps.
    @param expired: the newest revision to remove from the journal, if any.
    """
    names = batch.keys
    ordinal = base.key_count + len(names)
    value = records.encode_cursor(batch.after, ordinal, queue.node, journal)
    success = [
        _put(layout.cursor, value),
        _put(layout.row(batch.after.revision), records.encode_journal_row(batch)),
        _put_operation(operation),
        *(
            _put(layout.key_use(name), records.encode_key_use(unpack_use(use)))
            for name, use in batch.keys.items()
        ),
    ]
    if names:
        success.append(_put(layout.key_age(ordinal), records.encode_names(names)))
    if expired is not None:
        success.append(_delete(layout.row(0), layout.row(expired + 1)))
    own_mark = layout.mark(queue.node)
    success += [
        # etcd refuses a transaction that both puts and deletes a key.
        _put(own_mark, records.encode_mark(queue.usual_seconds, hard=False))
        if queue.keeps_place
        else _delete(own_mark),
        *(_remove(layout.mark(mark.node), mark.mod_revision) for mark in queue.passed_over),
        _marks(layout),
    ]
    return {
        "compare": [
            *_is_still(layout, base),
            _exists(operation.name),
            *(_is_new(layout.key_use(name)) for name in names),
        ],
        "success": success,
        "failure": [
            *_state(layout, operation, names),
            # A node that has a place in the queue already keeps that place.
            {
                "request_txn": {
                    "compare": [_is_new(own_mark)],
                    "success": [
                        _put(own_mark, records.encode_mark(queue.usual_seconds, hard=True))
                    ],
                }
            },
            _marks(layout),
        ],
    }


def observe(layout: Layout, operation: OperationKey, names: Iterable[bytes]) -> Message:
    """
    Return a transaction that only reads what a failed L{commit} reads.
    """
    return {"success": [*_state(layout, operation, names), _marks(layout)]}


def _state(
    layout: Layout, operation: OperationKey, names: Iterable[bytes]
) -> list[Message]:
    return [
        {"request_range": get(key)}
        for key in (layout.cursor, operation.name, *map(layout.key_use, names))
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


def _remove(key: bytes, mod_revision: int) -> Message:
    """
    Return the operation that deletes C{key}, unless C{key} was put again.
    """
    return {
        "request_txn": {
            "compare": [_compare(key, "MOD", "EQUAL", mod_revision)],
            "success": [_delete(key)],
        }
    }


@frozen
class Observation:
    """
    The state of etcd in the answer to the transaction of a batch.

    @ivar revision: etcd's revision in the answer.
    @ivar record: the cursor's record.
    @ivar operation: the number of the last batch of this process that was stored; C{None}
        if the operation key is gone, so that a new one is needed.
    @ivar used: the batch's idempotency keys that were used before, each with what its first
        use did.
    @ivar marks: the marks in the queue, in its order.
    """

    revision: int
    record: CursorRecord
    operation: int | None
    used: Mapping[bytes, KeyUse | Refusal]
    marks: Sequence[Mark]


def read_observation(
    layout: Layout, answer: Message, names: Iterable[bytes]
) -> Observation:
    """
    Read the answer to a L{commit} that did not succeed, or to a L{observe}.

    @param names: the batch's idempotency keys.
    @raise ForeignRecord: this program did not write a record, or the cursor is missing.
    """
    cursor, operation, *used, _ = ranges(answer)
    return Observation(
        int(answer["header"]["revision"]),
        only_cursor(layout, cursor),
        records.decode_operation(operation[0]) if operation else None,
        {
            name: read_key_use(pair[0])
            for name, pair in zip(names, used, strict=True)
            if pair
        },
        read_marks(layout, answer),
    )


def read_key_use(pair: Message) -> KeyUse | Refusal:
    """
    Read what the first use of a key did.  Bad content concerns only the clients of the key.
    """
    try:
        return records.decode_key_use(pair)
    except records.ForeignRecord as error:
        return Refusal(str(error))


def only_cursor(layout: Layout, found: Sequence[Message]) -> CursorRecord:
    """
    Read the cursor in the answer to a range of its key.

    @raise ForeignRecord: the cursor is missing, or this program did not write it.
    """
    if not found:
        raise records.ForeignRecord(
            f"etcd has lost the key {layout.cursor.decode()}; restore etcd from a snapshot,"
            f" or delete all keys with the prefix {layout.prefix.decode()} and run pexctl"
            " create"
        )
    return records.decode_cursor(found[0])


def read_marks(layout: Layout, answer: Message) -> list[Mark]:
    """
    Read the marks in the queue, in its order, in the answer to a L{commit}.
    """
    marks = pairs(answer["responses"][-1]["response_range"])
    return [records.decode_mark(layout, pair) for pair in marks]


def pairs(answer: Message) -> list[Message]:
    """
    Return the keys and values in the answer to a range.
    """
    keys_and_values: list[Message] = answer.get("kvs", [])
    return keys_and_values


def ranges(answer: Message) -> Iterator[list[Message]]:
    """
    Yield the keys and values of each range in the answer to a transaction.

    Answers of nested transactions are left out: they have nothing that is needed.
    """
    for response in answer["responses"]:
        if "response_range" in response:
            yield pairs(response["response_range"])


def trim_keys(
    layout: Layout, oldest: bytes, newest: bytes, names: Iterable[bytes]
) -> Message:
    """
    Return the transaction that removes the idempotency keys C{names}.

    They are the keys of the batches from C{oldest} to C{newest}.  If another node has
    removed them, the transaction changes nothing, because clients may have used the keys
    again since.
    """
    return {
        "compare": [_exists(oldest)],
        "success": [
            _delete(oldest, newest + b"\0"),
            *(_delete(layout.key_use(name)) for name in names),
        ],
    }
