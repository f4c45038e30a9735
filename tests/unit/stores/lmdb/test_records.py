"""
The records of an LMDB store, as bytes on disk.
"""

from __future__ import annotations

import pytest

from pexservice.core.cursor import Cursor
from pexservice.stores.lmdb import records
from pexservice.stores.remembered_keys import pack_use
from tests.support.format_1 import seal
from tests.unit.stores.test_contract import batch


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


def test_contradicting_record_is_refused_despite_its_checksum() -> None:
    key = records.encode_first_item(1)
    with pytest.raises(records.BadRecord, match="has 7 bytes, not 8"):
        records.decode_first_item(key[1:])
    with pytest.raises(records.BadRecord, match="no transition"):
        records.decode_journal_row_ends(key, seal(key, bytes(16)))
    with pytest.raises(records.BadRecord, match="no transition b'x'"):
        records.decode_journal_row_ends(key, seal(key, bytes(16) + b"x"))
    with pytest.raises(records.BadRecord, match="has 3 bytes, not 18"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"\0\1c"))
    with pytest.raises(records.BadRecord, match="has 1 bytes, not 2"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"a"))
    with pytest.raises(records.OtherFormat, match="version 258, this program reads 1 to 2"):
        records.decode_cursor(seal(records.CURSOR_KEY, b"\1\2 and so on"))
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
