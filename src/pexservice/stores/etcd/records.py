"""
Every key and value in etcd, and the transactions that move the cursor.

Pure.  Values are JSON, for C{etcdctl get --prefix pexservice/}; etcd itself keeps
checksums.  Numbers in keys have 20 digits, so that keys sort by number.

==========================  =====================================================
key, after the prefix       value
==========================  =====================================================
``cursor``                  format, revision, position, how many keys ever
``journal/`` last revision  time, start position, the transitions packed
``keys/`` idempotency key   transition, revision, position
``ages/`` last ordinal      the names of a batch's idempotency keys
``operations/`` process     the number of its last batch that happened
==========================  =====================================================

A journal row is under its I{last} revision, so that rows up to a revision go whole
and without being read; its first one follows from the number of transitions.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from pexservice.core.cursor import Transition, follow_position
from pexservice.stores.interface import Batch, Remembered, Row

#: Goes up when a record's meaning changes.
FORMAT_VERSION = 1

#: No number has more digits.
_DIGITS = 20

#: The largest of them.
MOST = 10**_DIGITS - 1

#: A message of etcd's gateway, as L{json} reads and writes it.
Message = dict[str, Any]


class BadRecord(Exception):
    """
    A record that this program cannot have written.
    """


@frozen
class Cursor:
    """
    The cursor's record.

    @ivar modified: etcd's revision of the transaction that wrote it.
    @ivar keys: how many idempotency keys were ever remembered.
    """

    modified: int
    revision: int
    position: int
    keys: int


@frozen
class Keys:
    """
    Names of keys, by their prefix.
    """

    prefix: bytes

    @property
    def cursor(self) -> bytes:
        """
        The one key that each batch changes.
        """
        return self.prefix + b"cursor"

    def row(self, revision: int) -> bytes:
        """
        Of the journal row that ends with C{revision}.
        """
        return self.prefix + b"journal/%0*d" % (_DIGITS, revision)

    @property
    def rows_end(self) -> bytes:
        """
        After every journal row.
        """
        return self.prefix + b"journal0"

    def last_revision(self, row: bytes) -> int:
        """
        What L{row} was made from.
        """
        return _number(row, self.prefix + b"journal/")

    def used(self, key: bytes) -> bytes:
        """
        Of what an idempotency key did.
        """
        return self.prefix + b"keys/" + key

    def age(self, ordinal: int) -> bytes:
        """
        Of the names of a batch's idempotency keys, the last of which is the
        C{ordinal}-th of all.
        """
        return self.prefix + b"ages/%0*d" % (_DIGITS, ordinal)

    def operation(self, process: str) -> bytes:
        """
        Of the last batch of a process.
        """
        return self.prefix + b"operations/" + process.encode()

    @property
    def end(self) -> bytes:
        """
        After every key.
        """
        return self.prefix[:-1] + bytes((self.prefix[-1] + 1,))


def _number(name: bytes, prefix: bytes) -> int:
    digits = name.removeprefix(prefix)
    if len(digits) != _DIGITS or not digits.isdigit():
        raise BadRecord(f"{name!r} is no key of this program")
    return int(digits)


def text(data: bytes) -> str:
    """
    Bytes as the gateway takes them.
    """
    return b64encode(data).decode()


def _dump(value: object) -> str:
    return text(json.dumps(value, separators=(",", ":")).encode())


def _load(pair: Message, *names: str) -> list[Any]:
    """
    The fields of a record.  A zero value is left out by the gateway, not by us.
    """
    key = b64decode(pair["key"])
    try:
        value = json.loads(b64decode(pair.get("value", "")))
        return [value[name] for name in names]
    except (ValueError, KeyError, TypeError):
        raise BadRecord(f"the record {key!r} is not of this program") from None


def write_cursor(revision: int, position: int, keys: int) -> str:
    """
    The cursor's value.
    """
    return _dump(
        {
            "format": FORMAT_VERSION,
            "revision": revision,
            "position": position,
            "keys": keys,
        }
    )


def read_cursor(pair: Message) -> Cursor:
    """
    @raise BadRecord: also for a format of another version.
    """
    (version,) = _load(pair, "format")
    if version != FORMAT_VERSION:
        raise BadRecord(f"it has format {version}, this program knows {FORMAT_VERSION}")
    numbers = _load(pair, "revision", "position", "keys")
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise BadRecord("the record of the cursor is not of this program")
    return Cursor(int(pair["mod_revision"]), *numbers)


def read_remembered(pair: Message) -> Remembered:
    """
    What an idempotency key did.
    """
    code, revision, position = _load(pair, "transition", "revision", "position")
    return Remembered(_transition(code), revision, position)


def _transition(code: str) -> Transition:
    try:
        return Transition(code.encode())
    except (ValueError, AttributeError):
        raise BadRecord(f"there is no transition {code!r}") from None


def read_row(pair: Message, last: int) -> list[Row]:
    """
    The transitions of the journal row that ends with revision C{last}, oldest first.
    """
    time_ns, position, codes = _load(pair, "time_ns", "position", "transitions")
    rows = []
    for revision, code in enumerate(codes, last - len(codes) + 1):
        transition = _transition(code)
        position = follow_position(position, transition)
        rows.append(Row(revision, position, transition, time_ns))
    return rows


def read_names(pair: Message) -> list[bytes]:
    """
    The idempotency keys of a batch.
    """
    (names,) = _load(pair, "names")
    return [name.encode() for name in names]


def get(key: bytes, end: bytes | None = None, **more: object) -> Message:
    """
    A range, linearizable: of one key, or up to C{end}.
    """
    message: Message = {"key": text(key), **more}
    if end is not None:
        message["range_end"] = text(end)
    return message


def _put(key: bytes, value: str, **more: object) -> Message:
    return {"request_put": {"key": text(key), "value": value, **more}}


def _delete(key: bytes, end: bytes | None = None) -> Message:
    return {"request_delete_range": get(key, end)}


def _compare(key: bytes, target: str, result: str, revision: int) -> Message:
    # Without a target, or with a field of another name, etcd compares something else.
    return {
        "key": text(key),
        "target": target,
        "result": result,
        f"{target.lower()}_revision": str(revision),
    }


def _exists(key: bytes) -> Message:
    return _compare(key, "CREATE", "GREATER", 0)


def _is_new(key: bytes) -> Message:
    return _compare(key, "CREATE", "EQUAL", 0)


@frozen
class Operation:
    """
    By what it is found out whether a batch happened.

    @ivar name: the operation key, of this process alone; there since before the batch.
    @ivar number: its value, after the batch and not before.
    @ivar lease: removes the key some time after the process has ended.
    """

    name: bytes
    number: int
    lease: str

    def following(self) -> Operation:
        """
        Of the next batch.
        """
        return evolve(self, number=self.number + 1)


def begin_operations(operation: Operation) -> Message:
    """
    Make a new operation key.
    """
    return {
        "compare": [_is_new(operation.name)],
        "success": [
            _put(operation.name, _dump(operation.number), lease=operation.lease),
        ],
    }


def make(keys: Keys) -> Message:
    """
    A new store, unless there is one.
    """
    return {
        "compare": [_is_new(keys.cursor)],
        "success": [_put(keys.cursor, write_cursor(0, 0, 0))],
        "failure": [{"request_range": get(keys.cursor)}],
    }


def transaction(
    keys: Keys, base: Cursor, batch: Batch, operation: Operation, forgotten: int | None
) -> Message:
    """
    Take C{batch}, if the cursor is still as C{base} says, and none of its keys was
    used.

    That the operation key is there means that its lease is.

    @param forgotten: the last revision of those that the journal need not have.
    """
    names = [name for name, _ in batch.keys]
    ordinal = base.keys + len(names)
    success = [
        _put(keys.cursor, write_cursor(batch.revision, batch.position, ordinal)),
        _put(
            keys.row(batch.revision),
            _dump(
                {
                    "time_ns": batch.time_ns,
                    "position": batch.start_position,
                    "transitions": batch.transitions.decode(),
                }
            ),
        ),
        _put(operation.name, _dump(operation.number), lease=operation.lease),
        *(
            _put(
                keys.used(name),
                _dump(
                    {
                        "transition": remembered.transition.value.decode(),
                        "revision": remembered.revision,
                        "position": remembered.position,
                    }
                ),
            )
            for name, remembered in batch.keys
        ),
    ]
    if names:
        listed = {"names": [name.decode() for name in names]}
        success.append(_put(keys.age(ordinal), _dump(listed)))
    if forgotten is not None:
        success.append(_delete(keys.row(0), keys.row(forgotten + 1)))
    return {
        "compare": [
            _compare(keys.cursor, "MOD", "EQUAL", base.modified),
            _exists(operation.name),
            *(_is_new(keys.used(name)) for name in names),
        ],
        "success": success,
        "failure": [
            {"request_range": get(each)}
            for each in (keys.cursor, operation.name, *map(keys.used, names))
        ],
    }


@frozen
class Refusal:
    """
    What etcd had when it did not take a batch.

    @ivar cursor: L{None} if it is not there.
    @ivar operation: the number of the last batch of this process that happened;
        L{None} if the key is gone.
    @ivar used: the batch's idempotency keys that had been used.
    """

    cursor: Cursor | None
    operation: int | None
    used: Mapping[bytes, Remembered]


def read_refusal(answer: Message, names: Sequence[bytes]) -> Refusal:
    """
    The answer to a L{transaction} that did not succeed.

    @param names: the batch's idempotency keys.
    """
    found = [pairs(each["response_range"]) for each in answer["responses"]]
    cursor, operation, *used = found
    return Refusal(
        read_cursor(cursor[0]) if cursor else None,
        json.loads(b64decode(operation[0]["value"])) if operation else None,
        {
            name: read_remembered(pair[0])
            for name, pair in zip(names, used, strict=True)
            if pair
        },
    )


def pairs(answer: Message) -> list[Message]:
    """
    The keys and values of the answer to a range.
    """
    found: list[Message] = answer.get("kvs", [])
    return found


def trimming(keys: Keys, oldest: bytes, newest: bytes, names: Iterable[bytes]) -> Message:
    """
    Forget the idempotency keys C{names}, which are those from the batch C{oldest} to
    the batch C{newest}, unless somebody else has: they may be in use again then.
    """
    return {
        "compare": [_exists(oldest)],
        "success": [
            _delete(oldest, newest + b"\0"),
            *(_delete(keys.used(name)) for name in names),
        ],
    }
