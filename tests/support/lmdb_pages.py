"""
The pages of a store's file, for tests that damage one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from unittest.mock import patch

from pexservice.stores.lmdb import pages
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.page_format import PAGE_HEADER
from pexservice.stores.lmdb.pages import Contents, check_pages

#: LMDB uses the page size of the machine that creates the file; this is the usual one.
SIZE = 4096

META, BRANCH, LEAF, OVERFLOW = "meta", "branch", "leaf", "overflow"

_KINDS = {1: BRANCH, 2: LEAF}

#: The offset of the number of its transaction in a meta page.
TRANSACTION = 144


def check(store: Path) -> Contents:
    return check_pages(store, lambda _: None)


def pages_in_use(store: Path) -> dict[str, list[int]]:
    """
    Return the numbers of the used pages of an undamaged store, by kind.
    """
    used: dict[str, list[int]] = {META: [0, 1], BRANCH: [], LEAF: [], OVERFLOW: []}
    visit, visit_overflow = pages._Pages.visit, pages._Pages.visit_overflow

    def visiting(self: pages._Pages, number: int) -> bytes:
        page = visit(self, number)
        used[_KINDS[PAGE_HEADER.unpack_from(page)[2]]].append(number)
        return page

    def visiting_overflow(self: pages._Pages, number: int, length: int) -> int:
        count = visit_overflow(self, number, length)
        used[OVERFLOW].extend(range(number, number + count))
        return count

    with patch.multiple(pages._Pages, visit=visiting, visit_overflow=visiting_overflow):
        check(store)
    return used


class PagedFile:
    """
    The data file of an undamaged store, whose pages a test changes.

    @ivar path: the path of the file.
    @ivar used: the numbers of the used pages, by kind.
    """

    def __init__(self, store: Path) -> None:
        self.path = store / DATA_FILE
        self.data = bytearray(self.path.read_bytes())
        self.used = pages_in_use(store)

    def page(self, number: int) -> bytes:
        return bytes(self.data[number * SIZE : (number + 1) * SIZE])

    def put(self, number: int, offset: int, new: bytes) -> None:
        """
        Write C{new} at C{offset} into a page, here and in the file on disk.
        """
        begin = number * SIZE + offset
        self.data[begin : begin + len(new)] = new
        with self.path.open("rb+") as file:
            file.seek(begin)
            file.write(new)

    def number(self, number: int, offset: int, form: str) -> int:
        """
        Read a number from a page.
        """
        value: int = struct.unpack_from("<" + form, self.page(number), offset)[0]
        return value

    def newest_meta(self) -> int:
        """
        Return the number of the meta page of the last transaction.
        """
        return max((0, 1), key=lambda number: self.number(number, TRANSACTION, "Q"))

    def nodes(self, number: int) -> tuple[int, ...]:
        """
        Return the offsets of the nodes in a page.
        """
        count = (self.number(number, 12, "H") - 16) // 2
        return struct.unpack_from(f"<{count}H", self.page(number), 16)


def exchange_leaves(file: PagedFile) -> None:
    """
    Exchange the last two leaves, but leave each its page number.
    """
    first, second = file.used[LEAF][-2:]
    pages = file.page(first), file.page(second)
    file.put(first, 8, pages[1][8:])
    file.put(second, 8, pages[0][8:])
