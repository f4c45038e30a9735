"""
Any bytes at all, for what reads the records on disk.

Each either is a record, and what it says is written as the same bytes again, or is
refused as a bad one; nothing else comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from pexservice.core.cursor import Transition
from pexservice.stores.interface import Batch, Remembered
from pexservice.stores.lmdb import records
from tests.unit.stores.test_contract import batch

numbers = st.integers(0, 2**64 - 1)
keys = st.binary(max_size=300) | numbers.map(records.revision_key)
codes = st.sampled_from([each.value for each in Transition])

#: What is written, and what is like it.
payloads = (
    st.binary(max_size=64)
    | st.tuples(st.just(b"\0\1"), st.binary(min_size=16, max_size=16)).map(b"".join)
    | st.tuples(st.binary(min_size=16, max_size=16), codes, codes).map(b"".join)
    | st.tuples(codes, st.binary(min_size=16, max_size=16)).map(b"".join)
)


@st.composite
def values(draw: st.DrawFn, key: bytes) -> bytes:
    """
    Most have the right checksum, so that what is behind it is tried too.
    """
    payload = draw(payloads)
    value = payload + crc32(payload, crc32(key)).to_bytes(4, "big")
    how = draw(st.sampled_from(("whole", "whole", "whole", "cut", "flipped", "any")))
    if how == "cut":
        return value[: draw(st.integers(0, len(value)))]
    if how == "flipped":
        bit = draw(st.integers(0, 8 * len(value) - 1))
        return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")
    return draw(st.binary(max_size=64)) if how == "any" else value


def again(key: bytes, value: bytes, rewrite: Callable[[], tuple[bytes, bytes]]) -> None:
    """
    Read a record and write what it says.

    @param rewrite: returns the key and the value, from what was read.
    """
    with suppress(records.BadRecord, records.OtherFormat):
        assert rewrite() == (key, value)


many = settings(max_examples=500, deadline=None)


@many
@given(st.data())
def test_cursor(data: st.DataObject) -> None:
    """
    The cursor's record.
    """
    value = data.draw(values(records.CURSOR_KEY))
    again(
        records.CURSOR_KEY,
        value,
        lambda: (records.CURSOR_KEY, records.write_cursor(*records.read_cursor(value))),
    )


@many
@given(st.data(), keys)
def test_row(data: st.DataObject, key: bytes) -> None:
    """
    A row of the journal.
    """
    value = data.draw(values(key))

    def rewrite() -> tuple[bytes, bytes]:
        rows = records.read_row(key, value)
        return records.write_row(
            Batch(
                first_revision=rows[0].revision,
                start_position=records.read_row_ends(key, value)[0][1],
                transitions=b"".join(row.transition.value for row in rows),
                position=rows[-1].position,
                time_ns=rows[0].time_ns,
                keys=(),
            )
        )

    again(key, value, rewrite)


@many
@given(st.data(), keys)
def test_row_ends(data: st.DataObject, key: bytes) -> None:
    """
    Where a row begins and leads to, of one that is not replayed: the same.
    """
    value = data.draw(values(key))

    def rewrite() -> tuple[bytes, bytes]:
        before, after = records.read_row_ends(key, value)
        rows = records.read_row(key, value)
        assert before[0] + 1 == rows[0].revision
        assert after == (rows[-1].revision, rows[-1].position)
        return key, value[:8] + before[1].to_bytes(8, "big") + value[16:]

    again(key, value, rewrite)


@many
@given(st.data(), st.binary(max_size=300))
def test_remembered(data: st.DataObject, key: bytes) -> None:
    """
    What an idempotency key did.
    """
    by_name = records.name_key(key)
    value = data.draw(values(by_name))
    again(
        by_name,
        value,
        lambda: next(records.write_remembered(key, records.read_remembered(key, value))),
    )


@many
@given(st.data(), numbers)
def test_aged(data: st.DataObject, revision: int) -> None:
    """
    The key that was used at a revision.
    """
    by_age = records.age_key(revision)
    value = data.draw(values(by_age))

    def rewrite() -> tuple[bytes, bytes]:
        key = records.read_aged(by_age, value)
        _, written = records.write_remembered(key, Remembered(Transition.NEXT, revision, 0))
        return written

    again(by_age, value, rewrite)


@given(st.binary(max_size=20))
def test_revision_key(key: bytes) -> None:
    """
    The key of a row.
    """
    again(key, b"", lambda: (records.revision_key(records.read_revision_key(key)), b""))


def test_what_is_tried_is_read() -> None:
    """
    The generated checksums are the right ones.
    """
    key, value = records.write_row(batch((5, 5), b"np"))
    assert value[-4:] == crc32(value[:-4], crc32(key)).to_bytes(4, "big")
