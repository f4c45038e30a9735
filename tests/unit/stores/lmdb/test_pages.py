"""
Tests of the walk through the pages of a file.

The walk passes a file that LMDB wrote, and no file that LMDB cannot have written.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.page_format import BadPage, OtherFile
from pexservice.stores.lmdb.pages import check_pages
from tests.support.format_1 import turn_back
from tests.support.forms import amount
from tests.support.lmdb_pages import (
    BRANCH,
    LEAF,
    OVERFLOW,
    SIZE,
    TRANSACTION,
    PagedFile,
    check,
    exchange_leaves,
    pages_in_use,
)
from tests.unit.stores.lmdb.test_store import at

#: Rows of the journal, with five keys each.
BATCHES = 250


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Provide a store with trees of two levels, long values, and many free pages.

    The store has more free pages than one page can list.
    """
    path = tmp_path_factory.mktemp("pages") / "store"
    with at(path, kept_transitions=3_000_000) as store:
        for number in range(BATCHES):
            length = 2_200_000 if number == 0 else 6_000 if number % 100 == 1 else 5
            keys = [b"key-%d-%050d" % (index, number) for index in range(5)]
            store.step(b"n" * length, *keys)
    # Trim the longest row, so that its pages become free.
    with at(path, kept_transitions=30_000) as store:
        store.step(b"n")
        store.step(b"n")
    # In format 1 the keys are in a tree of two levels with many short records.
    turn_back(path)
    return path


@pytest.fixture
def store(original: Path, path: Path) -> Path:
    """
    Provide a copy of the store, to be damaged.
    """
    return Path(shutil.copytree(original, path))


def test_every_page_of_an_undamaged_file_is_accounted_for(store: Path) -> None:
    """
    The numbers are LMDB's, and the progress grows.
    """
    percentages: list[int] = []
    checked = check_pages(store, percentages.append)
    assert percentages == sorted(percentages)
    assert 0 <= percentages[0] <= percentages[-1] <= 100
    with lmdb.open(str(store), max_dbs=3, readonly=True, lock=False) as env:
        assert checked.transaction == env.info()["last_txnid"]
        with env.begin() as txn:
            assert checked.entries == {
                name: txn.stat(env.open_db(name, txn, create=False))["entries"]
                for name in (b"cursor", b"journal", b"keys")
            }
    used = pages_in_use(store)
    # Two trees at least have a branch, and the list of free pages is a long value.
    assert len(used[BRANCH]) >= 2
    assert len(used[OVERFLOW]) > 2


@pytest.mark.parametrize("seed", range(4))
def test_walk_finds_all_records_and_no_lost_page_after_each_commit(
    tmp_path: Path, seed: int
) -> None:
    """
    A long series of commits puts, replaces and removes keys and values of all sizes.
    """
    chance = random.Random(seed)  # noqa: S311 to be repeated
    there: dict[bytes, set[bytes]] = {b"one": set(), b"two": set()}
    with lmdb.open(str(tmp_path), max_dbs=2, map_size=1 << 28, sync=False) as env:
        opened = {name: env.open_db(name) for name in there}
        for _ in range(60):
            with env.begin(write=True) as txn:
                for _ in range(chance.choice((1, 5, 200))):
                    name = chance.choice(list(there))
                    keys, database = there[name], opened[name]
                    if keys and chance.random() < 0.45:
                        key = chance.choice(sorted(keys))
                        assert txn.delete(key, db=database)
                        keys.discard(key)
                    else:
                        key = chance.randbytes(chance.choice((1, 8, 100, 511)))
                        length = chance.choice((0, 7, 40, 1500, 2100, 5000, 70_000))
                        txn.put(key, chance.randbytes(length), db=database)
                        keys.add(key)
            checked = check(tmp_path)
            assert checked.entries == {name: len(keys) for name, keys in there.items()}


#: Offsets in a meta page: of the free tree's record, of the main tree's, and so on.
FREE, MAIN, LAST_PAGE = 40, 88, 136

#: Offsets in a tree's record.
FLAGS, DEPTH, BRANCHES, ENTRIES, ROOT = 4, 6, 8, 32, 40

Damage = Callable[[PagedFile], None]


def number(form: str, value: int) -> bytes:
    """
    Return a number as it is in the file.
    """
    return struct.pack("<" + form, value)


def in_meta(offset: int, form: str, value: int | None = None) -> Damage:
    """
    Return a damage that puts another number into the newest meta page.

    The default is the next number.
    """

    def damage(file: PagedFile) -> None:
        page = file.newest_meta()
        new = file.number(page, offset, form) + 1 if value is None else value
        file.put(page, offset, number(form, new))

    return damage


def in_page(kind: str, index: int, offset: int, form: str, value: int) -> Damage:
    """
    Return a damage that puts another number into a page of some kind.
    """

    def damage(file: PagedFile) -> None:
        file.put(file.used[kind][index], offset, number(form, value))

    return damage


def in_node(kind: str, page: int, index: int, offset: int, new: bytes) -> Damage:
    """
    Return a damage that writes C{new} into a node.
    """

    def damage(file: PagedFile) -> None:
        where = file.used[kind][page]
        file.put(where, file.nodes(where)[index] + offset, new)

    return damage


def exchange_nodes(file: PagedFile) -> None:
    """
    Exchange two records of the last leaf.
    """
    page = file.used[LEAF][-1]
    first, second = file.page(page)[16:18], file.page(page)[18:20]
    file.put(page, 16, second + first)


def drop_last_record(file: PagedFile) -> None:
    """
    Let the last leaf end one record earlier.
    """
    page = file.used[LEAF][-1]
    file.put(page, 12, number("H", file.number(page, 12, "H") - 2))


def one_bit_of_a_branch_key(file: PagedFile) -> None:
    """
    Change one bit of the key by which a child is found.
    """
    page = file.used[BRANCH][-1]
    key = file.nodes(page)[1] + 8
    file.put(page, key + 1, bytes((file.page(page)[key + 1] ^ 1,)))


def free_root(file: PagedFile) -> int:
    """
    Return the number of the root page of the free tree.
    """
    return file.number(file.newest_meta(), FREE + ROOT, "Q")


def free_a_page_in_use(file: PagedFile) -> None:
    """
    Let the list of free pages name the last leaf.
    """
    root = free_root(file)
    begin = file.nodes(root)[0]
    count = file.number(root, begin + 16, "Q")
    assert 0 < count < 100
    for index in range(count):
        at = begin + 24 + 8 * index
        if index + 1 == count or file.number(root, at + 8, "Q") < file.used[LEAF][-1]:
            file.put(root, at, number("Q", file.used[LEAF][-1]))
            return


def empty_list_of_free_pages(file: PagedFile) -> None:
    """
    Let a list of free pages say that it has none.
    """
    root = free_root(file)
    file.put(root, file.nodes(root)[0] + 16, bytes(8))


def newest_key_of_the_free_tree(file: PagedFile) -> None:
    """
    Let another transaction have been the last to free pages.
    """
    root = free_root(file)
    last = file.nodes(root)[-1]
    file.put(root, last + 8, number("Q", file.number(root, last + 8, "Q") + 1))


def shorten(file: PagedFile) -> None:
    """
    Cut off the last page that is in use.
    """
    os.truncate(file.path, SIZE * max(map(max, file.used.values())))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "transaction later": (in_meta(TRANSACTION, "Q"), "not of the last two"),
    "both the same": (in_meta(TRANSACTION, "Q", 0), "not of the last two"),
    "another version": (in_meta(20, "I", 2), "no meta page"),
    "no flag": (in_meta(10, "H", 0), "no meta page"),
    "size of a page": (in_meta(FREE, "I", 8192), "page"),
    "flags of the free tree": (in_meta(FREE + FLAGS, "H", 0), "flags 0"),
    "flags of the main tree": (in_meta(MAIN + FLAGS, "H", 4), "flags 4"),
    "depth": (in_meta(MAIN + DEPTH, "H"), "tree of databases"),
    "no depth": (in_meta(MAIN + DEPTH, "H", 0), "a root and no depth"),
    "too deep": (in_meta(MAIN + DEPTH, "H", 33), "depth 33"),
    "branches": (in_meta(MAIN + BRANCHES, "Q"), "a record of"),
    "entries": (in_meta(MAIN + ENTRIES, "Q"), "a record of"),
    "last page": (in_meta(LAST_PAGE, "Q", 2), "beyond the end"),
    "last page far": (in_meta(LAST_PAGE, "Q", 1 << 34), "ends before page"),
    "no free pages": (empty_list_of_free_pages, "has lost them"),
    "freed by another": (newest_key_of_the_free_tree, "last transaction that has freed"),
    "another's number": (in_page(LEAF, -1, 0, "Q", 5), "says it is page 5"),
    "another's flags": (in_page(LEAF, -1, 10, "H", 1), "with flags 1"),
    "lower": (in_page(LEAF, -1, 12, "H", 0xFFFE), "bounds"),
    "lower odd": (in_page(LEAF, -1, 12, "H", 21), "bounds"),
    "no records": (in_page(LEAF, -1, 12, "H", 16), "bounds"),
    "one child": (in_page(BRANCH, -1, 12, "H", 18), "bounds"),
    "upper": (in_page(LEAF, -1, 14, "H", 4090), "outside"),
    "upper beyond": (in_page(LEAF, -1, 14, "H", 4098), "bounds"),
    "record outside": (in_page(LEAF, -1, 16, "H", 4095), "outside"),
    "child beyond": (in_node(BRANCH, -1, 1, 0, b"\xff" * 6), "beyond the end"),
    "child is a parent": (in_node(BRANCH, -1, 1, 0, bytes(6)), "used twice"),
    "key of a branch": (one_bit_of_a_branch_key, "not looked for there"),
    "key's length": (in_node(LEAF, -1, 0, 6, b"\xff\xff"), "goes beyond"),
    "value's length": (in_node(LEAF, -1, 0, 0, b"\xff\xff"), "goes beyond"),
    "value's kind": (in_node(LEAF, -1, 0, 4, b"\4"), "of kind 4"),
    "order": (exchange_nodes, "out of order"),
    "one record less": (drop_last_record, "a record of"),
    "leaves exchanged": (exchange_leaves, "keys on page"),
    "overflow pages": (in_page(OVERFLOW, 0, 12, "I", 1 << 30), "beyond the end"),
    "fewer overflow pages": (in_page(OVERFLOW, 0, 12, "I", 0), "begin a value"),
    "overflow flags": (in_page(OVERFLOW, 0, 10, "H", 2), "begin a value"),
    "free and in use": (free_a_page_in_use, "used twice, or is free"),
    "shorter": (shorten, "beyond the end"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_each_kind_of_damage_is_found_and_named(
    store: Path, damage: Damage, message: str
) -> None:
    damage(PagedFile(store))
    with pytest.raises(BadPage, match=message):
        check(store)


def test_file_with_any_bytes_passes_or_is_refused(store: Path) -> None:
    """
    Nothing else happens.
    """
    file, refused = PagedFile(store), 0
    seeds = amount(short=200, long=2000)
    for seed in range(seeds):
        chance = random.Random(seed)  # noqa: S311 to be repeated
        before = []
        for _ in range(3):
            page = chance.choice(file.used[chance.choice(list(file.used))])
            offset = chance.randrange(chance.choice((1, 10, 16, 100, SIZE - 100)))
            before.append((page, offset, file.page(page)[offset : offset + 100]))
            file.put(page, offset, chance.randbytes(chance.choice((1, 2, 8, 100))))
        try:
            check(store)
        except (BadPage, OtherFile):
            refused += 1
        for written in reversed(before):
            file.put(*written)
    assert refused > seeds / 2
    check(store)


@pytest.mark.parametrize(
    ("offset", "order", "version", "message"),
    [
        (16, "<", 999, "data version 999 was written;"),
        (24, "<", 3, "data version 3 was written;"),
        (16, ">", 1, "data version 1 was written on a big-endian machine"),
        (12, "<", 1, "data version 1 was written on a 32-bit machine"),
    ],
)
def test_file_of_another_lmdb_is_not_called_damaged(
    tmp_path: Path, offset: int, order: str, version: int, message: str
) -> None:
    """
    The error names its version.
    """
    meta = bytes(offset) + struct.pack(order + "II", 0xBEEFC0DE, version)
    (tmp_path / DATA_FILE).write_bytes(2 * meta.ljust(SIZE))
    with pytest.raises(OtherFile, match=message):
        check(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 20, 152, SIZE, SIZE + 20])
def test_file_that_ends_within_its_meta_pages_is_damaged(store: Path, length: int) -> None:
    data = (store / DATA_FILE).read_bytes()
    (store / DATA_FILE).write_bytes(data[:length])
    with pytest.raises(BadPage, match="the file ends before"):
        check(store)
