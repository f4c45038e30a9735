"""
Records in etcd that were changed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pexservice.stores.etcd.records import (
    MAX_NUMBER,
    MAX_POSITION,
    ForeignRecord,
    Message,
    base64_text,
    decode_batch_number,
    decode_cursor,
    decode_journal_row,
    decode_key_list,
    decode_key_use,
)

CURSOR = {"format": 1, "revision": 9, "position": 4, "keys": 2}
USE = {"transition": "n", "revision": 9, "position": 4}
ROW = {"time_ns": 1, "position": 4, "transitions": "nr"}

#: Values that stand for no revision, no position and no time.
NO_NUMBERS: list[Any] = [None, "4", 4.0, True, -1, [], MAX_NUMBER + 1]
NO_POSITIONS: list[Any] = [*NO_NUMBERS, MAX_POSITION + 1]


def _pair(value: Any) -> Message:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {"key": base64_text(b"p/x"), "value": base64_text(content), "mod_revision": "3"}


def _decode_row(pair: Message) -> object:
    return decode_journal_row(pair, 9)


#: Decoders of records, sound records, and wrong values of their fields.
WRONG: list[tuple[Callable[[Message], object], dict[str, Any], str, list[Any]]] = [
    (decode_cursor, CURSOR, "revision", NO_NUMBERS),
    (decode_cursor, CURSOR, "position", [*NO_POSITIONS, 10**30]),
    (decode_cursor, CURSOR, "keys", NO_NUMBERS),
    (decode_cursor, CURSOR, "format", [None]),
    (decode_key_use, USE, "revision", NO_NUMBERS),
    (decode_key_use, USE, "position", NO_POSITIONS),
    (decode_key_use, USE, "transition", [None, "", "x", "nn", "\u00e9", 1, ["n"]]),
    (_decode_row, ROW, "time_ns", NO_NUMBERS),
    (_decode_row, ROW, "position", NO_POSITIONS),
    (_decode_row, ROW, "transitions", [None, "", "nx", "n" * 11, 1, ["n"], "\ud800"]),
]


@pytest.mark.parametrize(("decode", "sound", "field", "values"), WRONG)
def test_record_with_a_wrong_value_is_refused_by_its_key(
    decode: Callable[[Message], object],
    sound: dict[str, Any],
    field: str,
    values: list[Any],
) -> None:
    decode(_pair(sound))
    for value in values:
        with pytest.raises(ForeignRecord, match=r"^the record b'p/x' is not of this"):
            decode(_pair(sound | {field: value}))


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[" * 100_000, b"9" * 10_000, None, [], {"names": [1]}]
)
def test_content_of_another_kind_is_refused_by_its_key(value: Any) -> None:
    for decode in (decode_cursor, decode_key_use, decode_key_list, decode_batch_number):
        with pytest.raises(ForeignRecord, match=r"^the record b'p/x'"):
            decode(_pair(value))
