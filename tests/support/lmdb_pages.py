"""
The pages of a store's file, for tests that damage one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def opened(store: Path) -> Iterator[int]:
    file = os.open(store / DATA_FILE, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)


def check(store: Path) -> Contents:
    return check_pages(store, lambda _: None)


def pages_in_use(store: Path) -> dict[str, list[int]]:
    """
    Return the numbers of the used pages of an undamaged store, by kind.
    """
    numbers_by_kind: dict[str, list[int]] = {
        META: [0, 1],
        BRANCH: [],
        LEAF: [],
        OVERFLOW: [],
    }
    visit, visit_overflow = pages._Pages.visit, pages._Pages.visit_overflow

    def visiting(self: pages._Pages, number: int) -> bytes:
        page = visit(self, number)
        numbers_by_kind[_KINDS[PAGE_HEADER.unpack_from(page)[2]]].append(number)
        return page

    def visiting_overflow(self: pages._Pages, number: int, length: int) -> int:
        count = visit_overflow(self, number, length)
        numbers_by_kind[OVERFLOW].extend(range(number, number + count))
        return count

    with patch.multiple(pages._Pages, visit=visiting, visit_overflow=visiting_overflow):
        check(store)
    return numbers_by_kind
