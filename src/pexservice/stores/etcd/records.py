"""
The format of every key and value in etcd.

All functions are pure.  Values are JSON, so that an operator can read them with C{etcdctl
get --prefix pexservice/}.  They have no checksums, because etcd has its own.  Numbers in
keys have 20 digits, so that the order of the keys is the order of the numbers.

==========================  =====================================================
key, after the prefix       value
==========================  =====================================================
``cursor``                  the fields of L{CursorRecord}, and the version of this format
``journal/`` last revision  time, start position, transitions
``keys/`` idempotency key   transition, revision, position
``ages/`` last ordinal      a batch's idempotency keys, without their uses
``operations/`` random name the number of a process's last batch that was stored
``waiting/`` node           the node's mark in the L{TurnQueue}
==========================  =====================================================

The I{ordinal} of an idempotency key is its number in the order of first uses, from 1.  So
the keys below C{ages/} list the idempotency keys from the oldest to the newest.

The key of a journal row has the row's I{last} revision.  So one operation removes the rows
up to a revision, without a read.  The first revision of a row follows from the number of
its transitions.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.remembered_keys import KeyUse

#: Increased when the meaning of a record changes.
ETCD_FORMAT_VERSION = 1

#: How many digits a number in a key has.
_DIGITS = 20

#: The largest number in a record, as in a store on disk.
MAX_NUMBER = 2**64 - 1

#: The highest position.  Its value has 20,898,764 digits, and takes seconds to compute.
#: Without this limit, an edited record could keep all nodes busy for ever.
MAX_POSITION = 10**8

#: A message to etcd's gateway or from it, decoded from JSON.
Message = dict[str, Any]


class ForeignRecord(Refusal):
    """
    A record that this program cannot have written.
    """


@frozen
class CursorRecord:
    """
    The cursor's record.

    Older versions of this program write neither C{author} nor C{journal}.

    @ivar mod_revision: etcd's revision of the transaction that wrote the record.
    @ivar key_count: how many idempotency keys were used since the store was created.
    @ivar author: the node that wrote the record, by its name in the L{TurnQueue}, or empty.
    @ivar journal: how many transitions the history keeps, for all nodes, or C{None}.
    @ivar value: the whole record, encoded for the gateway.
    """

    mod_revision: int
    cursor: Cursor
    key_count: int
    author: str = ""
    journal: int | None = None
    value: str = ""

    def went_back_from(self, earlier: CursorRecord) -> bool:
        """
        Return whether etcd was restored or emptied after it had the record C{earlier}.

        Each batch increases the cursor's revision, and etcd's revision of the last change
        of this record.  So etcd was restored if one of these revisions is lower than
        before, or if etcd's revision is the same, but the record has another value.
        """
        return (
            self.mod_revision < earlier.mod_revision
            or self.cursor.revision < earlier.cursor.revision
            or (self.mod_revision == earlier.mod_revision and self.value != earlier.value)
        )


@frozen
class Mark:
    """
    The place of a node in the queue of the nodes that take turns; see L{TurnQueue}.

    @ivar node: the name of the node.
    @ivar hard: whether steps wait at the node; otherwise the node will probably have steps.
    @ivar usual_seconds: how long a transaction of the node usually takes.
    @ivar mod_revision: etcd's revision of the transaction that put the mark.
    """

    node: str
    hard: bool
    usual_seconds: float
    mod_revision: int


@frozen
class Layout:
    """
    The keys of the records in etcd, which all begin with a prefix.
    """

    prefix: bytes

    @property
    def cursor(self) -> bytes:
        """
        Return the key of the cursor's record, which each batch changes.
        """
        return self.prefix + b"cursor"

    def row(self, revision: int) -> bytes:
        """
        Return the key of the journal row that ends with C{revision}.
        """
        return self.prefix + b"journal/%0*d" % (_DIGITS, revision)

    @property
    def rows_end(self) -> bytes:
        """
        Return the end of the range of all journal rows.
        """
        return end_of(self.prefix + b"journal/")

    def last_revision(self, key: bytes) -> int:
        """
        Return the last revision of a journal row from its C{key}, which L{row} has made.
        """
        digits = key.removeprefix(self.prefix + b"journal/")
        if len(digits) != _DIGITS or not digits.isdigit():
            raise ForeignRecord(f"{key!r} is not a key of this program")
        return int(digits)

    def key_use(self, idempotency_key: bytes) -> bytes:
        return self.prefix + b"keys/" + idempotency_key

    def key_list(self, ordinal: int) -> bytes:
        """
        Return the key of the record that lists a batch's idempotency keys.

        @param ordinal: the ordinal of the batch's last idempotency key.
        """
        return self.prefix + b"ages/%0*d" % (_DIGITS, ordinal)

    def last_batch(self, name: str) -> bytes:
        return self.prefix + b"operations/" + name.encode()

    def mark(self, node: str) -> bytes:
        return self.prefix + b"waiting/" + node.encode(errors="surrogateescape")


def end_of(prefix: bytes) -> bytes:
    """
    Return the end of the range of all keys that begin with C{prefix}.
    """
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def base64_text(data: bytes) -> str:
    return b64encode(data).decode()


def _record(**fields: object) -> str:
    return base64_text(json.dumps(fields, separators=(",", ":")).encode())


@contextmanager
def _content(pair: Message) -> Iterator[Any]:
    """
    Provide the content of a record to a C{with} block that decodes the content.

    Anybody may have edited the record.  So errors in the block mean that the record is
    wrong.

    @raise ForeignRecord: the content is not JSON, or the block has failed.  The message has
        the key of the record, and nothing of the content.
    """
    try:
        # The gateway leaves out an empty value.
        yield json.loads(b64decode(pair.get("value", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        name = b64decode(pair["key"])
        raise ForeignRecord(f"the record {name!r} is not of this program") from None


def _number(value: object, maximum: int = MAX_NUMBER) -> int:
    if type(value) is not int or not 0 <= value <= maximum:
        raise ValueError(f"no number up to {maximum}")
    return value


def encode_mark(usual_seconds: float, *, hard: bool) -> str:
    return _record(hard=hard, usual=round(usual_seconds, 6))


def decode_mark(layout: Layout, pair: Message) -> Mark:
    """
    Decode a mark.  If it is wrong, return a mark for which no node waits.
    """
    name = b64decode(pair["key"]).removeprefix(layout.mark(""))
    # A key of another program need not be UTF-8.
    node = name.decode(errors="surrogateescape")
    mod_revision = int(pair["mod_revision"])
    try:
        with _content(pair) as mark:
            return Mark(
                node, bool(mark["hard"]), max(0.0, float(mark["usual"])), mod_revision
            )
    except (ForeignRecord, OverflowError):
        return Mark(node, False, 0.0, mod_revision)  # noqa: FBT003 positional, as others


def encode_cursor(cursor: Cursor, key_count: int, author: str, journal: int) -> str:
    return _record(
        format=ETCD_FORMAT_VERSION,
        revision=cursor.revision,
        position=cursor.position,
        keys=key_count,
        author=author,
        journal=journal,
    )


def decode_cursor(pair: Message) -> CursorRecord:
    """
    Decode the cursor's record.

    @raise ForeignRecord: the record is wrong, or its format has another version.
    """
    with _content(pair) as record:
        version = _number(record["format"])
        if version != ETCD_FORMAT_VERSION:
            raise ForeignRecord(
                f"it has format {version}, this program knows {ETCD_FORMAT_VERSION}"
            )
        journal = record.get("journal")
        return CursorRecord(
            int(pair["mod_revision"]),
            Cursor(_number(record["revision"]), _number(record["position"], MAX_POSITION)),
            _number(record["keys"]),
            author=str(record.get("author", "")),
            journal=journal if type(journal) is int and journal > 0 else None,
            value=pair["value"],
        )


def encode_key_use(use: KeyUse) -> str:
    return _record(
        transition=use.transition.code.decode(),
        revision=use.revision,
        position=use.position,
    )


def decode_key_use(pair: Message) -> KeyUse:
    with _content(pair) as use:
        return KeyUse(
            Transition(use["transition"].encode()),
            _number(use["revision"]),
            _number(use["position"], MAX_POSITION),
        )


def encode_journal_row(batch: Batch) -> str:
    return _record(
        time_ns=batch.time_ns,
        position=batch.before.position,
        transitions=batch.transitions.decode(),
    )


def decode_journal_row(pair: Message, last: int) -> list[HistoryEntry]:
    """
    Decode a journal row, and return its transitions, oldest first.

    @param last: the revision of the last transition, which is in the row's key.
    """
    with _content(pair) as row:
        time_ns = _number(row["time_ns"])
        position = _number(row["position"], MAX_POSITION)
        codes = row["transitions"].encode()
        # A row without transitions is wrong: its first revision would be after its last.
        first = _number(last - len(codes) + 1, last)
        entries = []
        for revision, code in enumerate(codes, first):
            transition = Transition(bytes((code,)))
            position = position_after(position, transition)
            entries.append(HistoryEntry(revision, position, transition, time_ns))
        return entries


def encode_key_list(names: Iterable[bytes]) -> str:
    return _record(names=[name.decode() for name in names])


def decode_key_list(pair: Message) -> list[bytes]:
    with _content(pair) as content:
        return [name.encode() for name in content["names"]]


def encode_batch_number(number: int) -> str:
    return base64_text(str(number).encode())


def decode_batch_number(pair: Message) -> int:
    """
    Decode the value of a last-batch key.
    """
    with _content(pair) as number:
        return _number(number)
