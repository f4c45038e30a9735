"""
Read the meta pages of LMDB's file, without LMDB.

Each walk through the file begins at these pages.  They are read as LMDB 0.9 writes them on
64-bit little-endian machines, in its data version 1.

The layout of each part, in bytes::

    page header  number (8), padding (2), flags (2), lower (2), upper (2)
    meta page    page header, magic (4), version (4), address (8), map size (8), free
                 tree (48), main tree (48), last page (8), transaction (8)
    tree         padding (4; in the free tree, the size of a page), flags (2), depth
                 (2), then branch, leaf and overflow pages, entries, and the root's
                 number (8 each)

Pages 0 and 1 are meta pages: transaction N writes page N % 2, so one of them is of the
last commit and the other of the one before.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

#: Of C{mdb.c}: the stamp of a meta page, and the version that is read here.
MAGIC = 0xBEEFC0DE
DATA_VERSION = 1

PAGE_HEADER = struct.Struct("<QHHHH")
TREE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct(f"<IIQQ{TREE.size}s{TREE.size}sQQ")

#: The size of magic and version, in bytes.
_STAMP_SIZE = 8

#: The flag of a meta page.
_META_PAGE = 8

#: The sizes of pages that LMDB can handle.
_PAGE_SIZES = frozenset(1 << power for power in range(9, 16))


class BadPage(Exception):
    """
    A page that LMDB cannot have written, or not there.
    """


class OtherFile(Exception):
    """
    A file that an LMDB wrote whose files this program does not read.
    """


class Tree(NamedTuple):
    """
    LMDB's record of a tree.
    """

    padding: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Meta(NamedTuple):
    """
    A meta page.

    @ivar page_size: in bytes.
    @ivar last_page: the highest number of a page that is in use or free.
    @ivar transaction: the number of the commit that wrote it.
    """

    page_size: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


def read_meta(file: int) -> Meta:
    """
    Return the newer one of the two meta pages, as LMDB does.

    @raise BadPage: the two are not of two commits in a row.
    @raise OtherFile: another LMDB wrote the file.
    """
    _refuse_other_files(file)
    first = _read_meta_page(file, 0, 0)
    second = _read_meta_page(file, 1, first.page_size)
    newer, older = (
        (second, first) if second.transaction > first.transaction else (first, second)
    )
    if newer.transaction != older.transaction + 1 or newer.transaction % 2 != (
        newer is second
    ):
        raise BadPage(
            f"its meta pages are of the transactions {first.transaction} and"
            f" {second.transaction}, not of the last two"
        )
    return newer


def _refuse_other_files(file: int) -> None:
    """
    Tell a file of another LMDB, which no store of this program is, from a damaged one.

    @raise OtherFile: both meta pages have the stamp of another build.
    """
    begins = os.pread(file, 2 * max(_PAGE_SIZES), 0)
    for offset, order, build in (
        (16, "<", ""),
        (16, ">", " on a big-endian machine"),
        (12, "<", " on a 32-bit machine"),
        (24, "<", ""),
    ):
        stamp = begins[offset : offset + _STAMP_SIZE]
        if len(stamp) < _STAMP_SIZE:
            return
        magic, version = struct.unpack(order + "II", stamp)
        if magic != MAGIC or (offset, order, version) == (16, "<", DATA_VERSION):
            continue
        if any(begins.startswith(stamp, size + offset) for size in _PAGE_SIZES):
            raise OtherFile(
                f"LMDB's data version {version} was written{build}; this program reads"
                f" version {DATA_VERSION} of a 64-bit little-endian machine"
            )


def _read_meta_page(file: int, number: int, offset: int) -> Meta:
    data = os.pread(file, PAGE_HEADER.size + _META.size, offset)
    if len(data) != PAGE_HEADER.size + _META.size:
        raise BadPage(f"the file ends before its meta page {number} does")
    found, _, flags, _, _ = PAGE_HEADER.unpack_from(data)
    magic, version, _, _, free, main, last_page, transaction = _META.unpack_from(
        data, PAGE_HEADER.size
    )
    if (found, flags, magic, version) != (number, _META_PAGE, MAGIC, DATA_VERSION):
        raise BadPage(f"page {number} is no meta page")
    free_tree, main_tree = Tree(*TREE.unpack(free)), Tree(*TREE.unpack(main))
    page_size = free_tree.padding
    if page_size not in _PAGE_SIZES or (offset and page_size != offset):
        raise BadPage(f"meta page {number} tells of pages of {page_size} bytes")
    return Meta(page_size, free_tree, main_tree, last_page, transaction)
