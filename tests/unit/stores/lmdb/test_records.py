"""
The records of an LMDB store, as bytes on disk.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.lmdb import records
from pexservice.stores.remembered_keys import pack_use
from tests.support.fakes import replay
from tests.unit.stores.test_contract import batch

numbers = st.integers(0, 2**64 - 1)
small = st.integers(0, 2**40)


@given(numbers, numbers, numbers)
def test_cursor_record_is_read_as_written_in_30_bytes(
    revision: int, position: int, ordinal: int
) -> None:
    written = records.encode_cursor(Cursor(revision, position), ordinal)
    assert len(written) == 30
    assert records.decode_cursor(written) == (2, (revision, position), ordinal)


def test_cursor_record_has_the_same_bytes_in_every_version() -> None:
    assert records.encode_cursor(Cursor(258, 7), 3).hex() == (
        "0002000000000000010200000000000000070000000000000003a7d5cad3"
    )


@given(small, small, st.lists(st.sampled_from(list(Transition)), min_size=1, max_size=9))
def test_journal_row_replays_to_its_transitions(
    revision: int, position: int, transitions: list[Transition]
) -> None:
    written = batch(
        (revision, position), b"".join(transition.code for transition in transitions)
    )
    key, value = records.encode_journal_row(written)
    assert records.decode_journal_row(key, value) == list(replay(written))
    assert len(value) == 20 + len(transitions)


keys = st.dictionaries(
    st.text("".join(map(chr, range(33, 127))), min_size=1, max_size=40).map(str.encode),
    st.builds(pack_use, st.sampled_from([b"n", b"p", b"r"]), small, small),
    min_size=1,
    max_size=9,
)


@given(small, keys, keys)
def test_row_of_keys_has_the_keys_and_uses_that_were_written(
    first: int, some: dict[bytes, bytes], more: dict[bytes, bytes]
) -> None:
    row = records.KeyRow(first, b"", b"").with_keys(some)
    assert records.decode_key_row(*records.encode_key_row(row)) == row
    assert dict(row.items()) == some
    assert row.next_ordinal == first + len(some)
    grown = row.with_keys(more)
    assert row.is_beginning_of(grown)
    assert list(grown.items(len(some))) == list(more.items())
    assert not grown.is_beginning_of(row)


@given(st.data())
def test_flipped_bit_in_a_record_is_noticed(data: st.DataObject) -> None:
    """
    In the cursor's record or in a journal row.
    """
    row_key, row = records.encode_journal_row(batch((5, 5), b"np"))
    read, value = data.draw(
        st.sampled_from(
            [
                (records.decode_cursor, records.encode_cursor(Cursor(3, 2), 1)),
                (lambda value: records.decode_journal_row(row_key, value), row),
            ]
        )
    )
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = int.from_bytes(value, "big") ^ (1 << bit)
    with pytest.raises(records.BadRecord):
        read(flipped.to_bytes(len(value), "big"))


def test_record_under_the_key_of_another_is_damage() -> None:
    _, value = records.encode_journal_row(batch((5, 5), b"n"))
    with pytest.raises(records.BadRecord, match="checksum"):
        records.decode_journal_row(records.encode_row_number(7), value)


def seal(key: bytes, payload: bytes) -> bytes:
    """
    Return a record with a right checksum, whatever is in C{payload}.
    """
    return records._seal(key, payload)


def test_contradicting_record_is_refused_despite_its_checksum() -> None:
    key = records.encode_row_number(1)
    with pytest.raises(records.BadRecord, match="no transition"):
        records.decode_journal_row(key, seal(key, bytes(16)))
    with pytest.raises(records.BadRecord, match="no transition b'x'"):
        records.decode_journal_row(key, seal(key, bytes(16) + b"x"))
    with pytest.raises(records.BadRecord, match="has 3 bytes, not 18"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"\0\1c"))
    with pytest.raises(records.BadRecord, match="has 1 bytes, not 2"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"a"))
    with pytest.raises(records.OtherFormat, match="version 258, this program reads 1 to 2"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"\1\2 and so on"))
    with pytest.raises(records.BadRecord, match="has 3 bytes, not 8"):
        records.decode_row_number(b"abc")
    with pytest.raises(records.BadRecord, match="has 3 bytes"):
        records.decode_key_row(key, seal(key, b"abc"))
    with pytest.raises(records.BadRecord, match="does not hold 2 keys"):
        records.decode_key_row(key, seal(key, b"\0\0\0\2" + bytes(34) + b"one"))
    with pytest.raises(records.BadRecord, match="does not hold 0 keys"):
        records.decode_key_row(key, seal(key, b"\0\0\0\0"))
    unknown = records.KeyRow(1, pack_use(b"x", 1, 1), b"key")
    with pytest.raises(records.BadRecord, match="no transition b'x'"):
        records.check_key_row(unknown, 0, 1)
    twice = records.KeyRow(1, 2 * pack_use(b"n", 1, 1), b"key\nother")
    with pytest.raises(records.BadRecord, match="not in order"):
        records.check_key_row(twice, 0, 1)
