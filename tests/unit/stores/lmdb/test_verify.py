"""
The second reader of a verification: LMDB, whose view of the store is what is served.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from pexservice.stores.errors import StoreDamaged, StoreError, StoreIncompatible
from pexservice.stores.lmdb import verify as module
from pexservice.stores.lmdb.databases import DATABASES, as_store_error
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.page_format import TREE, BadPage, OtherFile, read_meta
from pexservice.stores.lmdb.pages import Contents, check_pages
from pexservice.stores.lmdb.records import OtherFormat
from pexservice.stores.lmdb.verify import verify
from tests.support.lmdb_pages import BRANCH, LEAF, SIZE, pages_in_use
from tests.unit.stores.lmdb.test_store import filled

#: Enough for branch pages.
BATCHES = 300


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a store whose pages the verification takes for sound.
    """
    path = tmp_path / "store"
    filled(path, BATCHES)
    with lmdb.open(str(path), max_dbs=3, readonly=True, lock=False) as env:
        transaction = env.info()["last_txnid"]
    entries = dict.fromkeys(DATABASES, 1)
    sound = Contents(transaction, entries)
    monkeypatch.setattr(module, "check_pages", lambda *_: sound)
    return path


def change(path: Path, offset: int, new: bytes) -> None:
    """
    Write C{new} at C{offset} into the store's data file.
    """
    with (path / DATA_FILE).open("rb+") as file:
        file.seek(offset)
        file.write(new)


def nodes(page: bytes) -> tuple[int, ...]:
    """
    Return where the nodes of a page begin.
    """
    (lower,) = struct.unpack_from("<H", page, 12)
    return struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16)


def greater_key_of_a_branch(path: Path) -> None:
    """
    Let the first key of each child be looked for in the child before it.
    """
    data = (path / DATA_FILE).read_bytes()
    for page in pages_in_use(path)[BRANCH]:
        for node in nodes(data[page * SIZE : (page + 1) * SIZE])[1:]:
            at = page * SIZE + node
            (length,) = struct.unpack_from("<H", data, at + 6)
            change(path, at + 8 + length - 1, bytes((data[at + 8 + length - 1] + 1,)))


def exchanged_leaves(path: Path) -> None:
    """
    Exchange the last two leaves, but leave each its page number.
    """
    data = (path / DATA_FILE).read_bytes()
    first_leaf, second_leaf = pages_in_use(path)[LEAF][-2:]
    change(
        path, first_leaf * SIZE + 8, data[second_leaf * SIZE + 8 : (second_leaf + 1) * SIZE]
    )
    change(
        path, second_leaf * SIZE + 8, data[first_leaf * SIZE + 8 : (first_leaf + 1) * SIZE]
    )


def another_count(path: Path) -> None:
    """
    Let LMDB's record of the journal have one entry more.
    """
    data, begin = (path / DATA_FILE).read_bytes(), b"journal" + struct.pack("<IHH", 0, 0, 2)
    at = data.find(begin)
    while at >= 0:
        # Older copies of the record are on free pages, and are changed too.
        (entries,) = struct.unpack_from("<Q", data, at + 7 + 32)
        change(path, at + 7 + 32, struct.pack("<Q", entries + 1))
        at = data.find(begin, at + 1)


def test_leaf_whose_only_record_was_zeroed_is_damage(tmp_path: Path) -> None:
    """
    It seems to have a record with an empty key, for which LMDB has another error.
    """
    path = tmp_path / "store"
    filled(path, 1)
    (root,) = struct.unpack_from("<Q", _record_of(path, b"cursor"), 40)
    change(path, root * SIZE + 512, bytes(SIZE - 512))
    with pytest.raises(BadPage, match=f"a key on page {root} is empty"):
        check_pages(path, lambda _: None)


def _record_of(path: Path, tree: bytes) -> bytes:
    """
    Return the record of a tree, from the newest root of the main tree.
    """
    with (path / DATA_FILE).open("rb") as file:
        meta = read_meta(file.fileno())
        file.seek(meta.main.root * SIZE)
        page = file.read(SIZE)
    at = page.index(tree) + len(tree)
    return page[at : at + TREE.size]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "branch": (greater_key_of_a_branch, "looking up"),
    "leaves": (exchanged_leaves, "(comes after|looking up|end at ordinal)"),
    "count": (another_count, f"{BATCHES} records where LMDB counts {BATCHES + 1}"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_misplaced_miscounted_or_unreachable_records_are_damage(
    store: Path, damage: Callable[[Path], None], message: str
) -> None:
    """
    The right number is the one that LMDB counts. The pages need not have been looked at.
    """
    verify(store)
    damage(store)
    with pytest.raises(StoreDamaged, match=message):
        verify(store)


def test_lmdb_must_open_the_transaction_whose_pages_were_walked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = check_pages(store, lambda _: None)
    another = sound._replace(transaction=sound.transaction - 1)
    monkeypatch.setattr(module, "check_pages", lambda *_: another)
    with pytest.raises(StoreDamaged, match="LMDB begins with the transaction"):
        verify(store)


def test_store_has_only_its_own_databases(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = check_pages(store, lambda _: None)
    more = sound._replace(entries={**sound.entries, b"other": 0})
    monkeypatch.setattr(module, "check_pages", lambda *_: more)
    with pytest.raises(StoreDamaged, match=r"its databases are .*other"):
        verify(store)


@pytest.mark.parametrize(
    "error",
    [
        lmdb.MapResizedError("MDB_MAP_RESIZED"),
        lmdb.ReadersFullError("MDB_READERS_FULL"),
        lmdb.PanicError("MDB_PANIC"),
        lmdb.Error("something"),
        OSError(5, "Input/output error"),
    ],
)
def test_errors_that_do_not_concern_the_content_are_no_damage(error: Exception) -> None:
    """
    The store is tried again.
    """
    explained = as_store_error(Path("/store"), error)
    assert type(explained) is StoreError
    assert str(explained).startswith("the store /store cannot be used: ")


@pytest.mark.parametrize(
    "error", [OtherFile(), OtherFormat(), lmdb.VersionMismatchError("old")]
)
def test_store_of_another_format_is_no_damage(error: Exception) -> None:
    assert type(as_store_error(Path("/store"), error)) is StoreIncompatible
