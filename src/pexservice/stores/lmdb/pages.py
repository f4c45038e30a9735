"""
Check the file of LMDB page by page, without LMDB.

LMDB has no checksums and trusts what it reads: a bit in a branch page hides keys from
C{get} that iteration finds, and a page that is both free and in use is overwritten one
day.  Here every tree is walked as it lies in the file.  No number that is read is
trusted: every offset is checked, no page is visited twice, the depth is bounded.

The layout of each part, in bytes; L{pexservice.stores.lmdb.meta_pages} has the
page header::

    tree page      page header, where each node begins (2 each, in the order of the
                   keys, up to lower), free room, nodes (from upper to the end)
    node           low and high half of the value's size (2 each), flags (2), size of
                   the key (2), key, value; in a branch page the first 6 bytes are the
                   number of a child, and there is no value
    overflow page  number (8), padding (2), flags (2), how many pages there are (4),
                   and a value
    free list      how many pages (8), their numbers, descending (8 each); its key is
                   the transaction that freed them (8)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import NamedTuple, cast

from pexservice.stores.lmdb.meta_pages import (
    PAGE_HEADER,
    TREE,
    BadPage,
    Meta,
    Tree,
    read_meta,
)

_OVERFLOW_HEADER = struct.Struct("<QHHI")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")

#: Flags of pages; and of nodes whose value is on overflow pages, or a tree's record.
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_LARGE, _SUBTREE = 1, 2

#: Flags of the free tree: its keys are integers.  The other trees of a store have none.
_INTEGER_KEYS = 8

#: The root's number of an empty tree.
_NO_PAGE = (1 << 64) - 1

#: The depth of the deepest tree that LMDB can handle.
_DEEPEST = 32

#: How many pages are walked between two reports of progress.
_STRIDE = 64


class Contents(NamedTuple):
    """
    The contents of a sound file.

    @ivar transaction: the number of the last commit.
    @ivar entries: the number of records by the name of their database.
    @ivar lost: how many pages are neither in use nor free, and so lost to use.
    """

    transaction: int
    entries: dict[bytes, int]
    lost: int


def check_pages(file: int, progress: Callable[[float], object]) -> Contents:
    """
    Walk all trees of a file that nobody writes to.

    @param file: its file descriptor.
    @param progress: called now and then with the fraction that is done, 0 to 1.
    @raise BadPage: the file is not what LMDB wrote.
    @raise OtherFile: another LMDB wrote the file.
    """
    meta = read_meta(file)
    pages = _Pages(file, meta, progress)
    databases: dict[bytes, Tree] = {}

    def database(name: bytes, value: bytes) -> None:
        if len(value) != TREE.size:
            raise BadPage(f"the record of the tree {name!r} has {len(value)} bytes")
        databases[name] = Tree(*TREE.unpack(value))

    _FreeWalk(pages, "free pages", meta.free, pages.free).check()
    # Every commit but the first replaces pages of the one before, and frees those.
    if pages.freed_by != meta.transaction > 1:
        raise BadPage(f"{pages.freed_by} is the last transaction that has freed pages")
    _MainWalk(pages, "databases", meta.main, database).check()
    for name, tree in databases.items():
        _Walk(pages, name.decode(errors="replace"), tree).check()
    entries = {name: tree.entries for name, tree in databases.items()}
    return Contents(meta.transaction, entries, pages.lost())


class _Pages:
    """
    The pages of a file, each given out once.
    """

    def __init__(self, file: int, meta: Meta, progress: Callable[[float], object]) -> None:
        self.size = meta.page_size
        self._file = file
        self._last = meta.last_page
        # The newest transaction that has freed pages, and whether a list has none.
        self.freed_by = 0
        self._empty_list = False
        self._progress = progress
        self._walked = 0
        # One byte for each page of the file: whether it was met, in use or free.
        here = min(os.fstat(file).st_size // self.size, self._last + 1)
        self._met = bytearray(here)
        self._met[:2] = b"\1\1"
        # The file may end before its last free pages: they were never written.
        self._free_beyond: set[int] = set()

    def lost(self) -> int:
        """
        Return how many pages of the file were met neither in use nor free.
        """
        if len(self._met) + len(self._free_beyond) != self._last + 1:
            raise BadPage(f"the file ends before page {self._last}, its last")
        lost = len(self._met) - sum(self._met)
        if lost and self._empty_list:
            # LMDB may lose pages, and have a list without any, but hardly both.
            raise BadPage("a list of free pages has lost them")
        return lost

    def take(self, number: int) -> bytes:
        """
        Return a page that is in use.
        """
        self._meet(number)
        self._walked += 1
        if not self._walked % _STRIDE:
            self._progress(self._walked / len(self._met))
        return self._read(self.size, number * self.size)

    def take_overflow(self, number: int, length: int) -> int:
        """
        Take the overflow pages of a value of C{length} bytes.

        @return: how many pages they are.
        """
        self._meet(number)
        header = self._read(_OVERFLOW_HEADER.size, number * self.size)
        found, _, flags, count = cast(tuple[int, ...], _OVERFLOW_HEADER.unpack(header))
        # There may be more pages than the value takes: a longer one was there before.
        enough = count * self.size >= _OVERFLOW_HEADER.size + length
        if (found, flags, enough) != (number, _OVERFLOW, True):
            raise BadPage(f"page {number} does not begin a value of {length} bytes")
        self._meet(number + 1, count - 1)
        self._walked += count
        return count

    def read_overflow(self, number: int, length: int) -> bytes:
        """
        Return a value whose overflow pages were taken.
        """
        return self._read(length, number * self.size + _OVERFLOW_HEADER.size)

    def _read(self, length: int, offset: int) -> bytes:
        data = os.pread(self._file, length, offset)
        if len(data) != length:
            raise BadPage("the file became shorter while it was read")
        return data

    def free(self, transaction: bytes, value: bytes) -> None:
        """
        Note an entry of the free tree.
        """
        self.freed_by = int.from_bytes(transaction)
        self._empty_list |= not any(value[: _NUMBER.size])
        numbers = [number for (number,) in _NUMBER.iter_unpack(value[: len(value) & -8])]
        if not numbers or numbers[0] >= len(numbers):
            raise BadPage("a list of free pages is longer than its record")
        above = self._last + 1
        for number in numbers[1 : numbers[0] + 1]:
            if number >= above:
                raise BadPage(f"a list of free pages has {number} where it ends at {above}")
            above = number
            if number < len(self._met):
                self._meet(number)
            elif number in self._free_beyond:
                raise BadPage(f"page {number} is free twice")
            else:
                self._free_beyond.add(number)

    def _meet(self, number: int, count: int = 1) -> None:
        if number + count > len(self._met):
            raise BadPage(f"page {number + count - 1} is beyond the end of the file")
        if self._met.count(0, number, number + count) != count:
            raise BadPage(f"page {number} is used twice, or is free as well")
        self._met[number : number + count] = b"\1" * count


class _Walk:
    """
    A walk through one tree, depth first, in the order of its keys.

    @cvar flags: the flags that the tree must have.
    @cvar kinds: the flags that its values may have.
    """

    flags = 0
    kinds: tuple[int, ...] = (0, _LARGE)

    def __init__(
        self,
        pages: _Pages,
        name: str,
        tree: Tree,
        visit: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        """
        Prepare a walk through C{tree}, which error messages call C{name}.

        @param visit: called with each key and value, if these describe the file itself.
        """
        self._pages = pages
        self._name = name
        self._tree = tree
        self._visit = visit
        self._branches = self._leaves = self._overflow = self._entries = 0

    def check(self) -> None:
        """
        Walk the tree, and compare the pages and entries that were met with its record.
        """
        tree = self._tree
        if tree.flags != self.flags or tree.depth > _DEEPEST:
            raise self._bad(f"flags {tree.flags} and depth {tree.depth}")
        if tree.depth:
            self._subtree(tree.root, 1, b"", None)
        elif tree.root != _NO_PAGE:
            raise self._bad("a root and no depth")
        found = (self._branches, self._leaves, self._overflow, self._entries)
        if found != tree[3:7]:
            raise self._bad(f"{found} pages and entries, and a record of {tree[3:7]}")

    def _bad(self, has: str) -> BadPage:
        return BadPage(f"the tree of {self._name} has {has}")

    def _subtree(self, number: int, level: int, low: bytes, high: bytes | None) -> None:
        """
        Walk the subtree of a page.

        @param low: no key in the subtree is less than this one.
        @param high: every key in the subtree is less than this one.
        """
        page = self._pages.take(number)
        if level == self._tree.depth:
            self._leaf(number, page, low, high)
            return
        self._branches += 1
        children: list[int] = []
        keys = [low]
        for at in self._nodes(number, page, _BRANCH):
            child_low, child_middle, child_high, key_size = _NODE.unpack_from(page, at)
            if children:
                # The key of the first child means nothing.
                keys.append(self._key(number, page, at + _NODE.size, key_size))
            children.append(child_low | child_middle << 16 | child_high << 32)
        for index, child in enumerate(children):
            above = keys[index + 1] if index + 1 < len(keys) else high
            self._subtree(child, level + 1, keys[index], above)

    def _leaf(self, number: int, page: bytes, low: bytes, high: bytes | None) -> None:
        self._leaves += 1
        nodes = self._nodes(number, page, _LEAF)
        self._entries += len(nodes)
        key = None
        for at in nodes:
            length_low, length_high, flags, key_size = _NODE.unpack_from(page, at)
            previous, key = key, self._key(number, page, at + _NODE.size, key_size)
            if key < low if previous is None else key <= previous:
                raise self._bad(f"keys on page {number} that are out of order")
            if high is not None and key >= high:
                raise self._bad(f"keys on page {number} that are not looked for there")
            begin, length = at + _NODE.size + key_size, length_low | length_high << 16
            if begin + (_NUMBER.size if flags & _LARGE else length) > len(page):
                raise self._bad(f"a value that goes beyond page {number}")
            if flags not in self.kinds:
                raise self._bad(f"a value of kind {flags} on page {number}")
            if flags & _LARGE:
                value = self._large(_NUMBER.unpack_from(page, begin)[0], length)
            else:
                value = page[begin : begin + length]
            if self._visit is not None:
                self._visit(key, value)

    def _large(self, number: int, length: int) -> bytes:
        self._overflow += self._pages.take_overflow(number, length)
        if self._visit is None:
            return b""
        return self._pages.read_overflow(number, length)

    def _key(self, number: int, page: bytes, begin: int, size: int) -> bytes:
        """
        Return a key, as bytes that sort as LMDB sorts the keys.
        """
        if begin + size > len(page):
            raise self._bad(f"a key that goes beyond page {number}")
        return page[begin : begin + size]

    def _nodes(self, number: int, page: bytes, kind: int) -> tuple[int, ...]:
        """
        Return where the nodes of a page begin, in the order of their keys.
        """
        found, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
        if (found, flags) != (number, kind):
            raise self._bad(f"a page {number} that is page {found} with flags {flags}")
        # LMDB wants two children; only a branch of the free tree may have one.
        least = 2 if kind == _BRANCH and not self.flags else 1
        first = PAGE_HEADER.size + 2 * least
        if not first <= lower <= upper <= len(page) or lower % 2:
            raise self._bad(f"a page {number} with the bounds {lower} and {upper}")
        count = (lower - PAGE_HEADER.size) // 2
        nodes = struct.unpack_from(f"<{count}H", page, PAGE_HEADER.size)
        if min(nodes) < upper or max(nodes) > len(page) - _NODE.size:
            raise self._bad(f"a record outside of page {number}")
        return nodes


class _MainWalk(_Walk):
    """
    A walk through the main tree, whose values are the records of the other trees.
    """

    kinds = (_SUBTREE,)


class _FreeWalk(_Walk):
    """
    A walk through the free tree, whose keys are integers.
    """

    flags = _INTEGER_KEYS

    def _key(self, number: int, page: bytes, begin: int, size: int) -> bytes:
        if size != _NUMBER.size:
            raise self._bad(f"a key of {size} bytes on page {number}")
        return super()._key(number, page, begin, size)[::-1]
