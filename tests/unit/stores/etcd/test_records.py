"""
Records in etcd that were changed by hand.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pexservice.core.cursor import Transition
from pexservice.stores.etcd.records import (
    MAX_NUMBER,
    MAX_POSITION,
    ForeignRecord,
    Message,
    decode_batch_number,
    decode_cursor,
    decode_journal_row,
    decode_key_list,
    decode_key_use,
    text,
)
from pexservice.stores.interface import HistoryEntry
from pexservice.stores.remembered_keys import KeyUse

CURSOR = {"format": 1, "revision": 9, "position": 4, "keys": 2}
USE = {"transition": "n", "revision": 9, "position": 4}
ROW = {"time_ns": 1, "position": 4, "transitions": "nr"}

#: Values that stand for no revision, no position and no time.
NO_NUMBERS: list[Any] = [None, "4", 4.0, True, -1, [], MAX_NUMBER + 1]


def _pair(value: Any) -> Message:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {"key": text(b"p/x"), "value": text(content), "mod_revision": "3"}


def test_sound_records_are_read() -> None:
    record = decode_cursor(_pair(CURSOR | {"position": MAX_POSITION}))
    assert (record.cursor, record.key_count) == ((9, MAX_POSITION), 2)
    assert decode_key_use(_pair(USE)) == KeyUse(Transition.NEXT, 9, 4)
    assert decode_journal_row(_pair(ROW), 9) == [
        HistoryEntry(8, 5, Transition.NEXT, 1),
        HistoryEntry(9, 0, Transition.RESET, 1),
    ]
    assert decode_key_list(_pair({"names": ["a", "b"]})) == [b"a", b"b"]
    assert decode_batch_number(_pair(7)) == 7


@pytest.mark.parametrize(
    "value",
    [
        *({"revision": number} for number in NO_NUMBERS),
        *({"position": number} for number in [*NO_NUMBERS, MAX_POSITION + 1, 10**30]),
        *({"keys": number} for number in NO_NUMBERS),
        {"format": None},
    ],
)
def test_cursor_with_a_wrong_number_is_refused_by_its_key(value: dict[str, Any]) -> None:
    with pytest.raises(ForeignRecord, match=r"^the record b'p/x' is not of this program$"):
        decode_cursor(_pair(CURSOR | value))


@pytest.mark.parametrize(
    "value",
    [
        *({"revision": number} for number in NO_NUMBERS),
        *({"position": number} for number in [*NO_NUMBERS, MAX_POSITION + 1]),
        *({"transition": code} for code in (None, "", "x", "nn", "\u00e9", 1, ["n"])),
    ],
)
def test_key_use_with_a_wrong_value_is_refused_by_its_key(value: dict[str, Any]) -> None:
    with pytest.raises(ForeignRecord, match=r"^the record b'p/x' is not of this program$"):
        decode_key_use(_pair(USE | value))


@pytest.mark.parametrize(
    "value",
    [
        *({"time_ns": number} for number in NO_NUMBERS),
        *({"position": number} for number in [*NO_NUMBERS, MAX_POSITION + 1]),
        *({"transitions": codes} for codes in (None, "nx", "n" * 11, 1, ["n"], "\ud800")),
    ],
)
def test_journal_row_with_a_wrong_value_is_refused_by_its_key(
    value: dict[str, Any],
) -> None:
    with pytest.raises(ForeignRecord, match=r"^the record b'p/x' is not of this program$"):
        decode_journal_row(_pair(ROW | value), 9)


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[" * 100_000, b"9" * 10_000, None, [], {"names": [1]}]
)
def test_content_of_another_kind_is_refused_by_its_key(value: Any) -> None:
    for decode in (decode_cursor, decode_key_use, decode_key_list, decode_batch_number):
        with pytest.raises(ForeignRecord, match=r"^the record b'p/x'"):
            decode(_pair(value))
