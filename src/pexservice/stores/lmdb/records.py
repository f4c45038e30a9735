"""
The format of the records on disk.

All of it is here, in pure functions.  Integers are big-endian, so that keys sort by
number.
Each record ends in the CRC-32 of what stands before it I{and} of the key it is
stored under, so a record that turns up in the wrong place is as damaged as a
flipped bit.

============  =======================  ==========================================
database      key                      value, before the CRC
============  =======================  ==========================================
``cursor``    ``cursor``               format version, revision, position
``journal``   first revision (8)       time (8), start position (8), transitions
``keys``      ``k`` + idempotency key  transition (1), revision (8), position (8)
``keys``      ``r`` + revision (8)     idempotency key
============  =======================  ==========================================

The file ``newest`` beside the databases is one such record too, of 15 bytes under the key
``newest``: a version of its own, revision, and whether no damage was found since.

A key's two records let it be found by its name, and the oldest keys by their age.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from pexservice.core.cursor import Transition, follow_position, skip_positions
from pexservice.stores.interface import Batch, Remembered, Row

#: Goes up when a record's meaning changes.
FORMAT_VERSION = 1

#: Goes up when a witness's meaning changes.
_WITNESS_VERSION = 1

CURSOR_KEY = b"cursor"
_WITNESS_KEY = b"newest"

_CURSOR = struct.Struct(">HQQ")
_WITNESS = struct.Struct(">HQ?")
_VERSION = struct.Struct(">H")
_JOURNAL = struct.Struct(">qQ")
_REMEMBERED = struct.Struct(">cQQ")
_REVISION = struct.Struct(">Q")
_CRC = struct.Struct(">I")

#: The size of a witness, in bytes.
WITNESS_SIZE = _WITNESS.size + _CRC.size


_TRANSITIONS = b"".join(each.code for each in Transition)


class BadRecord(Exception):
    """
    A record that this program cannot have written.
    """


class OtherFormat(Exception):
    """
    A cursor of a format that this program does not know.

    @ivar version: the version of that format.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"it has version {version}, this program reads {FORMAT_VERSION}")
        self.version = version


def _seal(key: bytes, payload: bytes) -> bytes:
    return payload + _CRC.pack(crc32(payload, crc32(key)))


def _unseal(key: bytes, value: bytes) -> bytes:
    payload, crc = value[: -_CRC.size], value[-_CRC.size :]
    if len(crc) != _CRC.size or crc32(payload, crc32(key)) != _CRC.unpack(crc)[0]:
        raise BadRecord(f"the record {key!r} does not match its checksum")
    return payload


def _unpack(form: struct.Struct, key: bytes, payload: bytes) -> tuple[int, ...]:
    if len(payload) != form.size:
        raise BadRecord(f"the record {key!r} has {len(payload)} bytes, not {form.size}")
    return form.unpack(payload)


def _transition(code: bytes) -> Transition:
    try:
        return Transition(code)
    except ValueError:
        raise BadRecord(f"there is no transition {code!r}") from None


def write_cursor(revision: int, position: int) -> bytes:
    """
    Return the cursor's record, 22 bytes whatever the numbers.
    """
    return _seal(CURSOR_KEY, _CURSOR.pack(FORMAT_VERSION, revision, position))


def read_cursor(value: bytes) -> tuple[int, int]:
    """
    Read the cursor's record.

    @return: (revision, position)
    @raise OtherFormat: the store has a format of another version.
    @raise BadRecord: C{value} is no cursor.
    """
    if (version := read_version(value)) != FORMAT_VERSION:
        raise OtherFormat(version)
    _, revision, position = _unpack(_CURSOR, CURSOR_KEY, _unseal(CURSOR_KEY, value))
    return revision, position


def read_version(value: bytes) -> int:
    """
    Return the version of the format that a cursor's record has.

    In every format the record begins with the version, and ends with a checksum.

    @raise BadRecord: C{value} is no cursor.
    """
    payload = _unseal(CURSOR_KEY, value)
    return _unpack(_VERSION, CURSOR_KEY, payload[: _VERSION.size])[0]


class Witnessed(NamedTuple):
    """
    The content of a witness.

    @ivar revision: the store had this revision, or a later one.
    @ivar sound: no damage was found since.
    """

    revision: int
    sound: bool = True


def write_witness(told: Witnessed) -> bytes:
    """
    Return the L{WITNESS_SIZE} bytes of a witness.
    """
    return _seal(_WITNESS_KEY, _WITNESS.pack(_WITNESS_VERSION, *told))


def read_witness(value: bytes) -> Witnessed:
    """
    Return the content of a witness.

    @raise BadRecord: the witness is torn, or of another format.
    """
    payload = _unseal(_WITNESS_KEY, value)
    version, revision, sound = _unpack(_WITNESS, _WITNESS_KEY, payload)
    if version != _WITNESS_VERSION:
        raise BadRecord(f"a witness of version {version}")
    return Witnessed(revision, bool(sound))


def revision_key(revision: int) -> bytes:
    """
    Return the key of the journal row that begins with C{revision}.
    """
    return _REVISION.pack(revision)


def read_revision_key(key: bytes) -> int:
    """
    Return the first revision of the journal row under C{key}.
    """
    return _unpack(_REVISION, key, key)[0]


def write_row(batch: Batch) -> tuple[bytes, bytes]:
    """
    Return the key and the value of C{batch}'s journal row.

    The value has 20 bytes, and one for each transition.
    """
    key = revision_key(batch.first_revision)
    payload = _JOURNAL.pack(batch.time_ns, batch.start_position) + batch.transitions
    return key, _seal(key, payload)


def _row(key: bytes, value: bytes) -> bytes:
    payload = _unseal(key, value)
    if len(payload) <= _JOURNAL.size:
        raise BadRecord(f"the journal row {key!r} holds no transition")
    return payload


def read_row(
    key: bytes, value: bytes, first: int = 0, before: int | None = None
) -> list[Row]:
    """
    Replay one journal row, and return its transitions, oldest first.

    @param first: leave out what is older than this revision.
    @param before: leave out this revision and what is newer.
    """
    payload = _row(key, value)
    time_ns, position = _JOURNAL.unpack_from(payload)
    begin, codes = read_revision_key(key), payload[_JOURNAL.size :]
    skipped = max(first - begin, 0)
    end = len(codes) if before is None else max(before - begin, 0)
    position = skip_positions(position, codes[:skipped])
    rows = []
    for revision, code in enumerate(codes[skipped:end], begin + skipped):
        transition = _transition(bytes((code,)))
        position = follow_position(position, transition)
        rows.append(Row(revision, position, transition, time_ns))
    return rows


def read_row_ends(key: bytes, value: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """
    Return (revision, position) before a journal row and after it.

    The row's transitions are looked at, but not replayed one by one.
    """
    payload = _row(key, value)
    _, position = _JOURNAL.unpack_from(payload)
    first, codes = read_revision_key(key), payload[_JOURNAL.size :]
    if foreign := codes.translate(None, _TRANSITIONS):
        raise BadRecord(f"there is no transition {foreign[:1]!r}")
    after = (first - 1 + len(codes), skip_positions(position, codes))
    return (first - 1, position), after


def name_key(key: bytes) -> bytes:
    """
    Return the database key under which the idempotency key C{key} is found by its name.
    """
    return b"k" + key


def age_key(revision: int) -> bytes:
    """
    Return the database key under which an idempotency key is found by its age.

    The idempotency key was first used at C{revision}.
    """
    return b"r" + _REVISION.pack(revision)


#: No key by age sorts before it, and every key by name does.
OLDEST_AGE_KEY = age_key(0)


def write_remembered(
    key: bytes, remembered: Remembered
) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """
    Return both records of an idempotency key: that by its name and that by its age.
    """
    transition, revision, position = remembered
    by_name, by_age = name_key(key), age_key(revision)
    did = _REMEMBERED.pack(transition.code, revision, position)
    return (by_name, _seal(by_name, did)), (by_age, _seal(by_age, key))


def read_remembered(key: bytes, value: bytes) -> Remembered:
    """
    Return what the record under L{name_key}C{(key)} says.
    """
    by_name = name_key(key)
    payload = _unseal(by_name, value)
    if len(payload) != _REMEMBERED.size:
        raise BadRecord(f"the record {by_name!r} has {len(payload)} bytes")
    code, revision, position = _REMEMBERED.unpack(payload)
    return Remembered(_transition(code), revision, position)


def read_aged(by_age: bytes, value: bytes) -> bytes:
    """
    Return the idempotency key that the record under C{by_age} names.
    """
    return _unseal(by_age, value)
