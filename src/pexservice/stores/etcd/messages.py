"""
The messages to etcd: ranges, and the transactions that move the cursor.

All functions are pure.  A message is sent to the gateway as JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from pexservice.stores.etcd import records
from pexservice.stores.etcd.records import CursorRecord, ForeignRecord, Keys, Mark, Message
from pexservice.stores.etcd.turn_queue import TurnQueue
from pexservice.stores.interface import Batch
from pexservice.stores.remembered_keys import KeyUse, unpack_use

#: How many idempotency keys one batch may have.  etcd takes 128 operations in a branch of
#: a transaction, and the rest of a branch takes up to 15.
MAX_BATCH_KEYS = 100

#: How many marks are read: those that have waited longest.  There is one for each node,
#: and those of processes that died are few: the node that passes them over removes them.
MAX_MARKS = 64


def get(key: bytes, end: bytes | None = None, **more: object) -> Message:
    """
    Return the message that reads a range, linearizably: of one key, or up to C{end}.
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
    # Without a target, or with a field of another name, etcd compares something else.
    return {
        "key": records.text(key),
        "target": target,
        "result": result,
        f"{target.lower()}_revision": str(revision),
    }


def _is_still(keys: Keys, base: CursorRecord) -> list[Message]:
    """
    Return the conditions that the cursor is C{base}.

    After etcd was restored from a snapshot, its revisions come again with other batches, so
    the revision alone proves nothing.
    """
    value = {"key": records.text(keys.cursor), "target": "VALUE", "result": "EQUAL"}
    return [
        _compare(keys.cursor, "MOD", "EQUAL", base.modified),
        {**value, "value": base.value},
    ]


def _exists(key: bytes) -> Message:
    return _compare(key, "CREATE", "GREATER", 0)


def _is_new(key: bytes) -> Message:
    return _compare(key, "CREATE", "EQUAL", 0)


@frozen
class OperationKey:
    """
    The operation key of a batch, by which it is found out whether the batch happened.

    @ivar name: the operation key, of this process alone; there since before the batch.
    @ivar number: its value, after the batch and not before.
    @ivar lease: the lease that removes the key some time after the process has ended.
    """

    name: bytes
    number: int
    lease: str


def begin_operations(operation: OperationKey) -> Message:
    """
    Return the transaction that makes a new operation key.
    """
    return {
        "compare": [_is_new(operation.name)],
        "success": [
            _put(operation.name, records.dump(operation.number), lease=operation.lease),
        ],
    }


def create(keys: Keys, journal: int) -> Message:
    """
    Return the transaction that creates a store, unless one exists.
    """
    return {
        "compare": [_is_new(keys.cursor)],
        "success": [_put(keys.cursor, records.encode_cursor(0, 0, 0, "", journal))],
    }


def find_cursor(keys: Keys) -> Message:
    """
    Return the transaction that reads the cursor, and any keys that have no business there.

    Those of the nodes that run may be there: after etcd was emptied they are put again.
    """
    others = (
        (keys.prefix, keys.operation("")),
        (records.end_of(keys.operation("")), keys.waiting("")),
        (records.end_of(keys.waiting("")), records.end_of(keys.prefix)),
    )
    return {
        "success": [
            {"request_range": get(keys.cursor)},
            *({"request_range": get(*between, limit="1")} for between in others),
        ]
    }


def check(keys: Keys) -> Message:
    """
    Return a transaction that etcd refuses if it would refuse a batch, and changes nothing.

    It could write, so etcd checks its space, its quorum and the user's permission; but its
    condition never holds.  It goes through etcd's log, so its answer has the cursor as it
    is, also where a member answers reads with an old state.
    """
    probe = (keys.cursor, keys.row(0), keys.operation(""), keys.waiting(""))
    return {
        "compare": [_compare(keys.cursor, "MOD", "LESS", 0)],
        "success": [_put(key, "") for key in probe],
        "failure": [{"request_range": get(keys.cursor)}],
    }


def set_cursor(keys: Keys, base: CursorRecord, revision: int, journal: int) -> Message:
    """
    Return the transaction that gives the cursor another revision, if it still is C{base}.

    The marks of nodes and their operation keys go, as the nodes are stopped.
    """
    value = records.encode_cursor(
        revision, base.position, base.keys, "", base.journal or journal
    )
    return {
        "compare": _is_still(keys, base),
        "success": [
            _put(keys.cursor, value),
            _delete(keys.operation(""), records.end_of(keys.operation(""))),
            _delete(keys.waiting(""), records.end_of(keys.waiting(""))),
        ],
    }


def transaction(
    keys: Keys,
    base: CursorRecord,
    batch: Batch,
    operation: OperationKey,
    *,
    queue: TurnQueue,
    journal: int,
    expired: int | None = None,
) -> Message:
    """
    Return the transaction that takes C{batch}, unless etcd's state forbids that.

    The cursor must still be C{base}, and none of the batch's idempotency keys may have been
    used.

    While the operation key is there, its lease is.  No other put has a lease, least of all
    one that is made when that key is gone: for a lease that has ended etcd refuses the
    whole transaction, and says nothing of the cursor.

    @param queue: the queue of the nodes that take turns, as this node sees it.
    @param journal: how many transitions the history keeps.
    @param expired: the last of the revisions that the journal need not have.
    """
    names = batch.keys
    ordinal = base.keys + len(names)
    value = records.encode_cursor(
        batch.revision, batch.position, ordinal, queue.process, journal
    )
    success = [
        _put(keys.cursor, value),
        _put(keys.row(batch.revision), records.encode_journal_row(batch)),
        _put(operation.name, records.dump(operation.number), lease=operation.lease),
        *(
            _put(keys.used(name), records.encode_key_use(unpack_use(use)))
            for name, use in batch.keys.items()
        ),
    ]
    if names:
        success.append(_put(keys.age(ordinal), records.encode_names(names)))
    if expired is not None:
        success.append(_delete(keys.row(0), keys.row(expired + 1)))
    own_mark = keys.waiting(queue.process)
    success += [
        # One key may not be both put and deleted.
        _put(own_mark, records.encode_mark(queue.usual_seconds, hard=False))
        if queue.keeps_place
        else _delete(own_mark),
        *(_remove(keys.waiting(mark.process), mark.modified) for mark in queue.passed_over),
        _marks(keys),
    ]
    return {
        "compare": [
            *_is_still(keys, base),
            _exists(operation.name),
            *(_is_new(keys.used(name)) for name in names),
        ],
        "success": success,
        "failure": [
            *_state(keys, operation, names),
            # A node that has a place in the queue keeps it.
            {
                "request_txn": {
                    "compare": [_is_new(own_mark)],
                    "success": [
                        _put(own_mark, records.encode_mark(queue.usual_seconds, hard=True))
                    ],
                }
            },
            _marks(keys),
        ],
    }


def observe(keys: Keys, operation: OperationKey, names: Iterable[bytes]) -> Message:
    """
    Return a transaction that reads what a failed L{transaction} reads, and changes nothing.
    """
    return {"success": [*_state(keys, operation, names), _marks(keys)]}


def _state(keys: Keys, operation: OperationKey, names: Iterable[bytes]) -> list[Message]:
    return [
        {"request_range": get(key)}
        for key in (keys.cursor, operation.name, *map(keys.used, names))
    ]


def _marks(keys: Keys) -> Message:
    return {
        "request_range": get(
            keys.waiting(""),
            records.end_of(keys.waiting("")),
            sort_target="MOD",
            sort_order="ASCEND",
            limit=str(MAX_MARKS),
        )
    }


def _remove(key: bytes, modified: int) -> Message:
    """
    Return the operation that deletes C{key}, unless it was put again.
    """
    return {
        "request_txn": {
            "compare": [_compare(key, "MOD", "EQUAL", modified)],
            "success": [_delete(key)],
        }
    }


@frozen
class Observation:
    """
    The state of etcd that the answer to a batch shows.

    @ivar revision: etcd's revision in the answer.
    @ivar cursor: the cursor.
    @ivar operation: the number of the last batch of this process that happened;
        C{None} if the key is gone, so that there must be a new one.
    @ivar used: the batch's idempotency keys that had been used, each with what its first
        use did.
    @ivar marks: the marks in the queue, in its order.
    """

    revision: int
    cursor: CursorRecord
    operation: int | None
    used: Mapping[bytes, KeyUse]
    marks: Sequence[Mark]


def read_observation(keys: Keys, answer: Message, names: Iterable[bytes]) -> Observation:
    """
    Read the answer to a L{transaction} that did not succeed, or to a L{observe}.

    @param names: the batch's idempotency keys.
    @raise ForeignRecord: a record is not of this program, or the cursor is missing.
    """
    cursor, operation, *used, _ = ranges(answer)
    return Observation(
        int(answer["header"]["revision"]),
        only_cursor(keys, cursor),
        json.loads(b64decode(operation[0]["value"])) if operation else None,
        {
            name: records.decode_key_use(pair[0])
            for name, pair in zip(names, used, strict=True)
            if pair
        },
        read_marks(keys, answer),
    )


def only_cursor(keys: Keys, found: Sequence[Message]) -> CursorRecord:
    """
    Read the cursor in the answer to a range of its key.

    @raise ForeignRecord: the cursor is missing, or not of this program.
    """
    if not found:
        raise ForeignRecord(
            f"etcd has lost the key {keys.cursor.decode()}; restore etcd from a snapshot,"
            " or create a new cursor with pexctl create"
        )
    return records.decode_cursor(found[0])


def read_marks(keys: Keys, answer: Message) -> list[Mark]:
    """
    Read the marks in the queue, in its order, in the answer to a L{transaction}.
    """
    marks = pairs(answer["responses"][-1]["response_range"])
    return [records.decode_mark(keys, pair) for pair in marks]


def pairs(answer: Message) -> list[Message]:
    """
    Return the keys and values in the answer to a range.
    """
    keys_and_values: list[Message] = answer.get("kvs", [])
    return keys_and_values


def ranges(answer: Message) -> Iterator[list[Message]]:
    """
    Yield the keys and values of each range in the answer to a transaction.

    The answer of a nested transaction tells nothing new.
    """
    for response in answer["responses"]:
        if "response_range" in response:
            yield pairs(response["response_range"])


def trimming(keys: Keys, oldest: bytes, newest: bytes, names: Iterable[bytes]) -> Message:
    """
    Return the transaction that forgets the idempotency keys C{names}.

    These keys are those from the batch C{oldest} to the batch C{newest}.  If another node
    has forgotten them, the transaction changes nothing: the keys may be in use again then.
    """
    return {
        "compare": [_exists(oldest)],
        "success": [
            _delete(oldest, newest + b"\0"),
            *(_delete(keys.used(name)) for name in names),
        ],
    }
