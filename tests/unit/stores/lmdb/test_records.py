"""
The records of an LMDB store, as bytes on disk, and fuzzing of the functions that read them.

A record that was written is read, and written again it is the same bytes.  A changed record
is refused, unless its checksum was changed too.  Such a record is refused, or it is what a
commit would have written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb import records
from pexservice.stores.remembered_keys import pack_use
from tests.support.forms import amount
from tests.unit.stores.test_contract import batch

Record = tuple[bytes, bytes]

numbers = st.integers(0, 2**64 - 1)
#: Revisions and positions after which a batch of the tests does not run out of bits.
starts = st.integers(0, 2**62)
codes = st.sampled_from([transition.code for transition in Transition])

#: The payloads of records, and bytes that look like them.
payloads = (
    st.binary(max_size=64)
    | st.tuples(st.just(b"\0\2"), st.binary(min_size=24, max_size=24)).map(b"".join)
    | st.tuples(st.binary(min_size=16, max_size=16), codes, codes).map(b"".join)
    | st.tuples(st.just(b"\0\0\0\1"), codes, st.binary(min_size=17)).map(b"".join)
)

keys = st.dictionaries(
    st.binary(min_size=1, max_size=40).filter(lambda name: b"\n" not in name),
    st.builds(pack_use, codes, numbers, numbers),
    min_size=1,
    max_size=5,
)


@frozen
class Kind:
    """
    A kind of record: its content, and the functions that write and read a record.
    """

    contents: st.SearchStrategy[Any]
    encode: Callable[[Any], Record]
    decode: Callable[[bytes, bytes], Any]


def decode_cursor(_: bytes, value: bytes) -> tuple[Cursor, int]:
    version, cursor, next_ordinal = records.decode_cursor(value)
    # A cursor of format 1 is read as well, but none is written.
    assume(version == records.FORMAT_VERSION)
    return cursor, next_ordinal


def decode_journal_row(key: bytes, value: bytes) -> Batch:
    before, after = records.decode_journal_row_ends(key, value)
    entries = records.decode_journal_row(key, value, 0, after.revision + 1)
    assert entries[0].revision == before.revision + 1
    assert after == (entries[-1].revision, entries[-1].position)
    transitions = b"".join(entry.transition.code for entry in entries)
    return Batch(before, transitions, after, entries[0].time_ns)


KINDS = {
    "cursor": Kind(
        st.tuples(st.builds(Cursor, numbers, numbers), numbers),
        lambda content: (records.CURSOR_KEY, records.encode_cursor(*content)),
        decode_cursor,
    ),
    "row of the journal": Kind(
        st.builds(
            batch,
            st.tuples(starts, starts),
            st.lists(codes, min_size=1, max_size=40).map(b"".join),
        ),
        records.encode_journal_row,
        decode_journal_row,
    ),
    "row of keys": Kind(
        st.builds(
            lambda first, used: records.KeyRow(first, b"", b"").with_keys(used),
            starts,
            keys,
        ),
        records.encode_key_row,
        records.decode_key_row,
    ),
}


def test_each_record_has_the_same_bytes_in_every_version() -> None:
    """
    A batch needs one more byte for each step without a key.
    """
    uses = {b"a": pack_use(b"n", 258, 8), b"bc": pack_use(b"p", 259, 7)}
    row = records.KeyRow(3, b"", b"").with_keys(uses)
    cursor = records.encode_cursor(Cursor(258, 7), 3)
    assert cursor.hex() == "0002000000000000010200000000000000070000000000000003a7d5cad3"
    key, value = records.encode_journal_row(batch((257, 7), b"np"))
    assert key.hex() == "0000000000000102"
    assert value.hex() == "17979cfe362a010100000000000000076e706a875909"
    key, value = records.encode_key_row(row)
    assert key.hex() == "0000000000000003"
    assert value.hex() == (
        "000000026e000000000000010200000000000000087000000000000001030000000000000007610a6263"
        "146ca22e"
    )
    witness = records.encode_witness(records.WitnessRecord(258, sound=False))
    assert witness.hex() == "0001000000000000010200d151f30c"


many = settings(max_examples=amount(short=50, long=500))
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each_kind
@many
@given(data=st.data())
def test_record_is_read_as_it_was_written_and_refused_if_it_was_changed(
    kind: Kind, data: st.DataObject
) -> None:
    """
    It has a flipped bit, is cut short, or is under the key of another row.
    """
    content = data.draw(kind.contents)
    key, value = kind.encode(content)
    assert kind.decode(key, value) == content
    bit = 1 << data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = (int.from_bytes(value, "big") ^ bit).to_bytes(len(value), "big")
    cut = value[: data.draw(st.integers(0, len(value) - 1))]
    other_key = data.draw(numbers.map(records.encode_first_item))
    changed = [(key, flipped), (key, cut)]
    # Every cursor has the same key, which is not compared.
    if key not in (records.CURSOR_KEY, other_key):
        changed.append((other_key, value))
    for record in changed:
        with pytest.raises(records.BadRecord):
            kind.decode(*record)


@each_kind
@many
@given(data=st.data())
def test_payload_with_a_right_checksum_is_refused_or_what_would_be_written(
    kind: Kind, data: st.DataObject
) -> None:
    key, _ = kind.encode(data.draw(kind.contents))
    record = key, records.seal(key, data.draw(payloads))
    try:
        content = kind.decode(*record)
    except (records.BadRecord, records.OtherFormat):
        return
    assert kind.encode(content) == record


@many
@given(starts, keys, keys)
def test_row_of_keys_has_the_keys_and_uses_that_were_added(
    first: int, some: dict[bytes, bytes], more: dict[bytes, bytes]
) -> None:
    row = records.KeyRow(first, b"", b"").with_keys(some)
    assert dict(row.items()) == some
    assert row.next_ordinal == first + len(some)
    grown = row.with_keys(more)
    assert row.is_beginning_of(grown)
    assert list(grown.items(len(some))) == list(more.items())
    assert not grown.is_beginning_of(row)


def test_journal_row_without_a_transition_is_refused() -> None:
    key = records.encode_first_item(1)
    with pytest.raises(records.BadRecord, match="no transition"):
        records.decode_journal_row_ends(key, records.seal(key, bytes(16)))


@pytest.mark.parametrize(
    ("uses", "names", "reason"),
    [
        (pack_use(b"x", 4, 1), b"key", "no transition b'x'"),
        (2 * pack_use(b"n", 4, 1), b"key\nother", "not in order"),
        (pack_use(b"n", 3, 1), b"of-the-row-before", "not in order"),
        (pack_use(b"n", 10, 1), b"after-the-cursor", "not in order"),
        (pack_use(b"n", 4, 1), b"", "not in order"),
        (pack_use(b"n", 4, 1), 256 * b"k", "not in order"),
    ],
)
def test_row_of_keys_that_no_commit_writes_is_refused(
    uses: bytes, names: bytes, reason: str
) -> None:
    with pytest.raises(records.BadRecord, match=reason):
        records.check_key_row(records.KeyRow(1, uses, names), after=3, newest=9)
