"""
The format of the records on disk, version 2, in pure functions.

Integers are big-endian, so that keys sort by number.  A record is a payload and the CRC-32
of its key I{and} of its payload.  So the checksum shows a flipped bit, and also a record
that is stored under a wrong key::

    database  key                 payload, with sizes in bytes
    --------  ------------------  --------------------------------------------------------
    cursor    cursor              format version (2), revision (8), position (8), ordinal
                                  of the next idempotency key (8)
    journal   first revision (8)  time (8), start position (8), transitions (1 each)
    keys      first ordinal (8)   number of idempotency keys (4), their uses (17 each: code
                                  of the transition (1), revision (8), position (8)), their
                                  names, joined by line feeds

The I{use} of an idempotency key is the transition of its step, and the cursor after it.
The I{ordinal} of a key is its number in the order of first uses, from 1.  A row of the
journal has the transitions of one batch.  A row of keys has the keys of one batch or of
several batches.  Each row begins with the revision or ordinal that follows the last one of
the row before.  A commit appends rows at the end, and removes rows at the beginning.

For example, the first batch of a store is a next with the key C{k} and a previous without a
key.  It writes these records, here without their checksums::

    cursor   cursor  version 2, revision 2, position 0, next ordinal 2
    journal  1       the time, start position 0, "np"
    keys     1       1 key, its use "n" (revision 1, position 1), "k"

The witness is the file C{newest} next to the data file.  The file has the payload and the
checksum of one record.  The key of this record, C{newest}, is not in the file.  The payload
is the version of this record (2), the revision (8), and a flag (1) that is false after
damage of the store was found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from operator import lt
from typing import NamedTuple, cast
from zlib import crc32

from pexservice.core.cursor import Cursor, Transition, position_after, position_after_all
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.remembered_keys import (
    MAX_IDEMPOTENCY_KEY_BYTES,
    USE_FORMAT,
    USE_SIZE,
)

#: This version is increased when the meaning of a record changes.
FORMAT_VERSION = 2

#: The versions that this program reads.  Their journals have the same format.  Version 1
#: has no ordinals; L{pexservice.stores.lmdb.format_1} reads its idempotency keys.
READABLE_VERSIONS = (1, FORMAT_VERSION)

#: This version is increased when the meaning of a witness changes.
_WITNESS_VERSION = 1

CURSOR_KEY = b"cursor"
_WITNESS_KEY = b"newest"

_CURSOR = struct.Struct(">HQQQ")
_CURSOR_1 = struct.Struct(">HQQ")
_WITNESS = struct.Struct(">HQ?")
_VERSION = struct.Struct(">H")
_JOURNAL = struct.Struct(">qQ")
_KEY_COUNT = struct.Struct(">I")
_FIRST_ITEM = struct.Struct(">Q")
_CRC = struct.Struct(">I")

WITNESS_SIZE = _WITNESS.size + _CRC.size

_TRANSITIONS = b"".join(transition.code for transition in Transition)

#: Separates names in a row of keys.
_LINE_FEED = b"\n"


class BadRecord(Exception):
    """
    A record or a row that this program cannot have written.
    """


class OtherFormat(Exception):
    """
    A cursor of a format that this program does not read.
    """


def seal(key: bytes, payload: bytes) -> bytes:
    return payload + _CRC.pack(crc32(payload, crc32(key)))


def unseal(key: bytes, value: bytes) -> bytes:
    """
    Return the payload of the record under C{key}.

    @raise BadRecord: the record does not match its checksum.
    """
    payload, crc = value[: -_CRC.size], value[-_CRC.size :]
    if len(crc) != _CRC.size or crc32(payload, crc32(key)) != _CRC.unpack(crc)[0]:
        raise BadRecord(f"the record {key!r} does not match its checksum")
    return payload


def _unpack(form: struct.Struct, key: bytes, payload: bytes) -> tuple[int, ...]:
    if len(payload) != form.size:
        raise BadRecord(f"the record {key!r} has {len(payload)} bytes, not {form.size}")
    return form.unpack(payload)


def _check_transitions(codes: bytes) -> None:
    if unknown := codes.translate(None, _TRANSITIONS):
        raise BadRecord(f"there is no transition {unknown[:1]!r}")


class StoredCursor(NamedTuple):
    """
    The content of the cursor's record.

    @ivar next_ordinal: the ordinal that the next idempotency key will get.  It shows
        whether the newest row of keys is missing.  In version 1, which has no ordinals, it
        is 1.
    """

    version: int
    cursor: Cursor
    next_ordinal: int


def encode_cursor(cursor: Cursor, next_ordinal: int) -> bytes:
    return seal(CURSOR_KEY, _CURSOR.pack(FORMAT_VERSION, *cursor, next_ordinal))


def decode_cursor(value: bytes) -> StoredCursor:
    """
    Read the cursor's record.

    In every format the record begins with the version and ends with the checksum.

    @raise OtherFormat: this program does not read that version.
    @raise BadRecord: C{value} is not a cursor.
    """
    payload = unseal(CURSOR_KEY, value)
    (version,) = _unpack(_VERSION, CURSOR_KEY, payload[: _VERSION.size])
    if version not in READABLE_VERSIONS:
        raise OtherFormat(
            f"it has version {version}, this program reads"
            f" {READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}"
        )
    if version == 1:
        _, revision, position = _unpack(_CURSOR_1, CURSOR_KEY, payload)
        next_ordinal = 1
    else:
        _, revision, position, next_ordinal = _unpack(_CURSOR, CURSOR_KEY, payload)
    return StoredCursor(version, Cursor(revision, position), next_ordinal)


class WitnessRecord(NamedTuple):
    """
    The content of a witness.

    @ivar revision: the store's revision when this record was written.
    @ivar sound: false after damage of the store was found.
    """

    revision: int
    sound: bool = True


def encode_witness(witness: WitnessRecord) -> bytes:
    return seal(_WITNESS_KEY, _WITNESS.pack(_WITNESS_VERSION, *witness))


def decode_witness(value: bytes) -> WitnessRecord:
    """
    Return the content of a witness.

    @raise BadRecord: the witness is incomplete, or has another format.
    """
    payload = unseal(_WITNESS_KEY, value)
    version, revision, sound = _unpack(_WITNESS, _WITNESS_KEY, payload)
    if version != _WITNESS_VERSION:
        raise BadRecord(f"a witness of version {version}")
    return WitnessRecord(revision, bool(sound))


def encode_first_item(first_item: int) -> bytes:
    """
    Return LMDB's key of a row that begins with the revision or ordinal C{first_item}.
    """
    return _FIRST_ITEM.pack(first_item)


def decode_first_item(key: bytes) -> int:
    return _unpack(_FIRST_ITEM, key, key)[0]


def encode_journal_row(batch: Batch) -> tuple[bytes, bytes]:
    """
    Return the key and the value of C{batch}'s journal row.

    The value has 20 bytes, and one for each transition.
    """
    revision, position = batch.before
    key = encode_first_item(revision + 1)
    payload = _JOURNAL.pack(batch.time_ns, position) + batch.transitions
    return key, seal(key, payload)


def _open_journal_row(key: bytes, value: bytes) -> tuple[int, Cursor, bytes]:
    """
    Return the time of a journal row, the cursor before it, and its transitions.
    """
    payload = unseal(key, value)
    codes = payload[_JOURNAL.size :]
    if not codes:
        raise BadRecord(f"the journal row {key!r} holds no transition")
    _check_transitions(codes)
    time_ns, position = _JOURNAL.unpack_from(payload)
    return time_ns, Cursor(decode_first_item(key) - 1, position), codes


def decode_journal_row(
    key: bytes, value: bytes, first: int, before: int
) -> list[HistoryEntry]:
    """
    Return the transitions of one journal row, oldest first.

    @param first: leave out revisions below this one.
    @param before: leave out this revision and the revisions above it.
    """
    time_ns, (revision, position), codes = _open_journal_row(key, value)
    begin = revision + 1
    skipped = max(first - begin, 0)
    end = max(before - begin, 0)
    position = position_after_all(position, codes[:skipped])
    entries = []
    for revision, code in enumerate(codes[skipped:end], begin + skipped):
        transition = Transition(bytes((code,)))
        position = position_after(position, transition)
        entries.append(HistoryEntry(revision, position, transition, time_ns))
    return entries


def decode_journal_row_ends(key: bytes, value: bytes) -> tuple[Cursor, Cursor]:
    """
    Return the cursor before a journal row, and the cursor after it.

    This is faster than L{decode_journal_row}, which applies the transitions one by one.
    """
    _, before, codes = _open_journal_row(key, value)
    position = position_after_all(before.position, codes)
    return before, Cursor(before.revision + len(codes), position)


class KeyRow(NamedTuple):
    """
    A row of idempotency keys, each with its packed use; see C{pack_use}.

    @ivar first_ordinal: the ordinal of the first key.
    @ivar uses: the packed uses of the keys, joined.
    @ivar names: the keys, joined by line feeds.
    """

    first_ordinal: int
    uses: bytes
    names: bytes

    @property
    def key_count(self) -> int:
        return len(self.uses) // USE_SIZE

    @property
    def next_ordinal(self) -> int:
        """
        Return the ordinal after that of the row's last key.
        """
        return self.first_ordinal + self.key_count

    def with_keys(self, keys: Mapping[bytes, bytes]) -> KeyRow:
        """
        Return this row with C{keys}, each with its packed use, at the end.
        """
        names = _LINE_FEED.join((self.names, *keys) if self.names else keys)
        return self._replace(uses=self.uses + b"".join(keys.values()), names=names)

    def is_beginning_of(self, other: KeyRow) -> bool:
        return (
            self.first_ordinal == other.first_ordinal
            and other.uses.startswith(self.uses)
            and (other.names + _LINE_FEED).startswith(self.names + _LINE_FEED)
        )

    def items(self, skip: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """
        Return the keys after the first C{skip} ones, each with its packed use.
        """
        uses = struct.unpack(f"{USE_SIZE}s" * self.key_count, self.uses)
        return zip(self.names.split(_LINE_FEED)[skip:], uses[skip:], strict=True)


#: The newest row of a store without keys.
NO_KEYS = KeyRow(1, b"", b"")


def encode_key_row(row: KeyRow) -> tuple[bytes, bytes]:
    key = encode_first_item(row.first_ordinal)
    count = _KEY_COUNT.pack(row.key_count)
    return key, seal(key, count + row.uses + row.names)


def decode_key_row(key: bytes, value: bytes) -> KeyRow:
    payload = unseal(key, value)
    if len(payload) < _KEY_COUNT.size:
        raise BadRecord(f"the row of keys {key!r} has {len(payload)} bytes")
    (count,) = _KEY_COUNT.unpack_from(payload)
    end = _KEY_COUNT.size + count * USE_SIZE
    uses, names = payload[_KEY_COUNT.size : end], payload[end:]
    if names.count(_LINE_FEED) != count - 1 or not names:
        raise BadRecord(f"the row of keys {key!r} does not hold {count} keys")
    return KeyRow(decode_first_item(key), uses, names)


def check_key_row(row: KeyRow, after: int, newest: int) -> int:
    """
    Check the uses of the keys in a row.

    @param after: the revision of the newest key in the row before, or 0.
    @param newest: the revision of the cursor.
    @return: the revision of the newest key in the row.
    @raise BadRecord: the revisions do not rise, or a transition or a key is not valid.
    """
    # A check of each column takes a fifth of the time of a check of each use.
    codes, revisions, _ = zip(*struct.iter_unpack(USE_FORMAT, row.uses), strict=True)
    lengths = [len(name) for name in row.names.split(_LINE_FEED)]
    _check_transitions(b"".join(codes))
    rising = all(map(lt, (after, *revisions), revisions))
    if (
        not rising
        or revisions[-1] > newest
        or min(lengths) < 1
        or max(lengths) > MAX_IDEMPOTENCY_KEY_BYTES
    ):
        raise BadRecord(
            f"the row of keys {row.first_ordinal} has a key that is not in order"
        )
    return cast(int, revisions[-1])
