"""
Read the pages of LMDB's data file, without LMDB.

This module reads the format that LMDB 0.9 writes on 64-bit little-endian machines: its data
version 1.  The layout, in bytes::

    page header  number (8), padding (2), flags (2), lower (2), upper (2)
    meta page    page header, magic (4), version (4), address (8), map size (8), free
                 tree (48), main tree (48), last page (8), transaction (8)
    tree         padding (4; in the free tree, the page size), flags (2), depth (2), how
                 many branch pages, leaf pages, overflow pages and entries it has (8
                 each), number of the root page (8)
    tree page    page header, where each node begins (2 each, in the order of the
                 keys, up to lower), free space, nodes (from upper to the end)
    node         low and high half of the value's size (2 each), flags (2), size of
                 the key (2), key, value; in a branch page the first 6 bytes are the
                 number of a child, and there is no value
    overflow     number (8), padding (2), flags (2), number of pages (4), and a value
    page         that is too long for a leaf page

Pages 0 and 1 are meta pages.  Transaction N writes page N % 2.  So one meta page belongs to
the last commit, and the other one to the commit before.

The main tree has a node for each database, and the value of this node is the record of the
database's tree.  For example, the way to the cursor is: the newer meta page, the root of
the main tree, its node C{cursor}, the root of that tree, its node C{cursor}.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

#: MDB_MAGIC and MDB_DATA_VERSION, of LMDB's mdb.c.
MAGIC = 0xBEEFC0DE
DATA_VERSION = 1

PAGE_HEADER = struct.Struct("<QHHHH")
TREE = struct.Struct("<IHHQQQQQ")
NUMBER = struct.Struct("<Q")
_META = struct.Struct(f"<IIQQ{TREE.size}s{TREE.size}sQQ")
_NODE = struct.Struct("<HHHH")

#: The flags of pages.
BRANCH, LEAF, OVERFLOW, _META_PAGE = 1, 2, 4, 8

#: The flags of nodes: the value is on overflow pages; the value is the record of a tree.
LARGE, SUBTREE = 1, 2

#: The size of magic and version, in bytes.
_STAMP_BYTES = 8

_PAGE_SIZES = frozenset(1 << power for power in range(9, 16))


class BadPage(Exception):
    """
    A page is missing, or LMDB cannot have written it.
    """


class OtherFile(Exception):
    """
    Another version or build of LMDB wrote the file, and this program does not read it.
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
    @ivar last_page: the highest number of a page in use or of a free page.
    @ivar transaction: the number of the transaction that wrote this meta page.
    """

    page_size: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


class Node(NamedTuple):
    """
    A node of a tree page.

    @ivar child: in a branch page, the number of a page.
    @ivar size: in a leaf page, the size of the value, in bytes.
    @ivar flags: in a leaf page, the kind of the value.
    @ivar value: where the value begins in the page, or the number of its overflow page.
    """

    key: bytes
    child: int
    size: int
    flags: int
    value: int


def read_meta(file: int) -> Meta:
    """
    Return the newer one of the two meta pages.  LMDB uses the newer one too.

    @raise BadPage: the two meta pages do not belong to two consecutive commits.
    @raise OtherFile: another version or build of LMDB wrote the file.
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
    Recognize a file of another version of LMDB, which is not a damaged store.

    @raise OtherFile: both meta pages have the magic number and version of another LMDB.
    """
    begins = os.pread(file, 2 * max(_PAGE_SIZES), 0)
    for offset, order, build in (
        (16, "<", ""),
        (16, ">", " on a big-endian machine"),
        (12, "<", " on a 32-bit machine"),
        (24, "<", ""),
    ):
        stamp = begins[offset : offset + _STAMP_BYTES]
        if len(stamp) < _STAMP_BYTES:
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
    own_number, _, flags, _, _ = PAGE_HEADER.unpack_from(data)
    magic, version, _, _, free, main, last_page, transaction = _META.unpack_from(
        data, PAGE_HEADER.size
    )
    stamp = (own_number, flags, magic, version)
    if stamp != (number, _META_PAGE, MAGIC, DATA_VERSION):
        raise BadPage(f"page {number} is no meta page")
    free_tree, main_tree = Tree(*TREE.unpack(free)), Tree(*TREE.unpack(main))
    page_size = free_tree.padding
    if page_size not in _PAGE_SIZES or (offset and page_size != offset):
        raise BadPage(f"meta page {number} tells of pages of {page_size} bytes")
    return Meta(page_size, free_tree, main_tree, last_page, transaction)


def read_nodes(number: int, page: bytes, kind: int, min_count: int = 1) -> list[Node]:
    """
    Return the nodes of a tree page, in the order of their keys.

    @param kind: L{BRANCH} or L{LEAF}.
    @param min_count: how many nodes the page has at least.
    @raise BadPage: C{page} is not such a page.
    """
    own_number, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
    if (own_number, flags) != (number, kind):
        raise BadPage(f"page {number} says it is page {own_number} with flags {flags}")
    first = PAGE_HEADER.size + 2 * min_count
    if not first <= lower <= upper <= len(page) or lower % 2:
        raise BadPage(f"page {number} has the bounds {lower} and {upper}")
    count = (lower - PAGE_HEADER.size) // 2
    offsets = struct.unpack_from(f"<{count}H", page, PAGE_HEADER.size)
    if min(offsets) < upper or max(offsets) > len(page) - _NODE.size:
        raise BadPage(f"a record is outside of page {number}")
    nodes = []
    for offset in offsets:
        low, middle, high, key_size = _NODE.unpack_from(page, offset)
        begin = offset + _NODE.size
        value = begin + key_size
        size = low | middle << 16
        if value > len(page):
            raise BadPage(f"a key goes beyond page {number}")
        if kind == LEAF:
            if value + (NUMBER.size if high & LARGE else size) > len(page):
                raise BadPage(f"a value goes beyond page {number}")
            if high & LARGE:
                (value,) = NUMBER.unpack_from(page, value)
        key = page[begin : begin + key_size]
        nodes.append(Node(key, size | high << 32, size, high, value))
    return nodes


class DataFile:
    """
    An open data file, from which pages are read with C{pread}.

    @ivar meta: the newer meta page; see L{read_meta}.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.meta = read_meta(descriptor)

    def read_page(self, number: int) -> bytes:
        return self.read(number, 0, self.meta.page_size)

    def read_value(self, node: Node, page: bytes) -> bytes:
        """
        Return the value of C{node}, which is on C{page} or on overflow pages.
        """
        if node.flags & LARGE:
            return self.read(node.value, PAGE_HEADER.size, node.size)
        return page[node.value : node.value + node.size]

    def read(self, number: int, offset: int, length: int) -> bytes:
        """
        Return C{length} bytes from C{offset} on in page C{number} and the pages after it.
        """
        begin = number * self.meta.page_size + offset
        data = os.pread(self._descriptor, length, begin)
        if len(data) != length:
            raise BadPage(f"the file ends before page {number} does")
        return data
