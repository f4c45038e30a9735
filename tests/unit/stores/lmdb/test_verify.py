"""
The second reader of a verification: LMDB, whose view of the store is what is served.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from pexservice.stores.errors import StoreDamaged, StoreError, StoreIncompatible
from pexservice.stores.lmdb import verify as module
from pexservice.stores.lmdb.databases import DATABASES, as_store_error
from pexservice.stores.lmdb.page_format import BadPage, OtherFile
from pexservice.stores.lmdb.records import OtherFormat
from pexservice.stores.lmdb.verify import verify
from tests.support.lmdb_pages import BRANCH, SIZE, PagedFile, check, exchange_leaves
from tests.unit.stores.lmdb.test_pages import MAIN, ROOT
from tests.unit.stores.lmdb.test_store import filled

#: Enough for branch pages.
BATCHES = 300


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a store whose pages the verification takes for sound.
    """
    filled(path, BATCHES)
    sound = check(path)
    monkeypatch.setattr(module, "check_pages", lambda *_: sound)
    return path


def greater_key_of_a_branch(file: PagedFile) -> None:
    """
    Let the first key of each child be looked for in the child before it.
    """
    for page in file.used[BRANCH]:
        for node in file.nodes(page)[1:]:
            last = node + 8 + file.number(page, node + 6, "H") - 1
            file.put(page, last, bytes((file.page(page)[last] + 1,)))


def another_count(file: PagedFile) -> None:
    """
    Let LMDB's record of the journal have one entry more.
    """
    # Older copies of the record are on free pages, and are changed too.
    for record in re.finditer(b"journal" + struct.pack("<IHH", 0, 0, 2), file.data):
        at = record.start() + 7 + 32
        entries = int.from_bytes(file.data[at : at + 8], "little")
        file.put(0, at, struct.pack("<Q", entries + 1))


def test_leaf_whose_only_record_was_zeroed_is_damage(path: Path) -> None:
    """
    It seems to have a record with an empty key, for which LMDB has another error.
    """
    filled(path, 1)
    file = PagedFile(path)
    main = file.number(file.newest_meta(), MAIN + ROOT, "Q")
    record = file.page(main).index(b"cursor") + len(b"cursor")
    leaf = file.number(main, record + ROOT, "Q")
    file.put(leaf, 512, bytes(SIZE - 512))
    with pytest.raises(BadPage, match=f"a key on page {leaf} is empty"):
        check(path)


DAMAGES: dict[str, tuple[Callable[[PagedFile], None], str]] = {
    "branch": (greater_key_of_a_branch, "looking up"),
    "leaves": (exchange_leaves, "(comes after|looking up|end at ordinal)"),
    "count": (another_count, f"{BATCHES} records where LMDB counts {BATCHES + 1}"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_misplaced_miscounted_or_unreachable_records_are_damage(
    store: Path, damage: Callable[[PagedFile], None], message: str
) -> None:
    """
    The right number is the one that LMDB counts. The pages need not have been looked at.
    """
    verify(store)
    damage(PagedFile(store))
    with pytest.raises(StoreDamaged, match=message):
        verify(store)


@pytest.mark.parametrize(
    ("another", "message"),
    [
        ({"transaction": 1}, "LMDB begins with the transaction"),
        (
            {"entries": dict.fromkeys([*DATABASES, b"other"], 1)},
            "its databases are .*other",
        ),
    ],
)
def test_lmdb_must_find_the_transaction_and_the_databases_whose_pages_were_walked(
    store: Path, monkeypatch: pytest.MonkeyPatch, another: dict[str, Any], message: str
) -> None:
    walked = check(store)._replace(**another)
    monkeypatch.setattr(module, "check_pages", lambda *_: walked)
    with pytest.raises(StoreDamaged, match=message):
        verify(store)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (StoreError, lmdb.MapResizedError("MDB_MAP_RESIZED")),
        (StoreError, lmdb.ReadersFullError("MDB_READERS_FULL")),
        (StoreError, lmdb.PanicError("MDB_PANIC")),
        (StoreError, lmdb.Error("something")),
        (StoreError, OSError(5, "Input/output error")),
        (StoreIncompatible, OtherFile()),
        (StoreIncompatible, OtherFormat()),
        (StoreIncompatible, lmdb.VersionMismatchError("old")),
    ],
)
def test_error_that_does_not_concern_the_content_is_no_damage(
    kind: type[StoreError], error: Exception
) -> None:
    assert type(as_store_error(Path("/store"), error)) is kind
