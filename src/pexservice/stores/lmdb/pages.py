"""
Check LMDB's data file page by page, without LMDB.

LMDB has no checksums and trusts the file.  If a bit in a branch page is flipped, C{get} may
not find a key that an iteration finds.  If a page is both free and in use, LMDB will
overwrite it.  So this module walks every tree in the file.  It trusts no number in the
file: it checks every offset, visits no page twice, and limits the depth.

L{pexservice.stores.lmdb.page_format} documents the layout.  In the free tree, each value is
a list of free pages: their count, and their numbers, descending (8 bytes each).  Its key is
the transaction that freed them (8 bytes).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from attrs import define

from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.page_format import (
    BRANCH,
    LARGE,
    LEAF,
    NUMBER,
    OVERFLOW,
    SUBTREE,
    TREE,
    BadPage,
    DataFile,
    Tree,
    read_nodes,
)

_OVERFLOW_HEADER = struct.Struct("<QHHI")

#: The flags of the free tree, whose keys are integers.  The other trees of a store have no
#: flags.
_INTEGER_KEYS = 8

#: An empty tree has this number in the place of its root's number.
_NO_PAGE = (1 << 64) - 1

#: The depth of the deepest tree that LMDB can handle.
_MAX_DEPTH = 32

_PAGES_PER_REPORT = 64


class Contents(NamedTuple):
    """
    The contents of a whole file.

    @ivar transaction: the number of the last commit.
    @ivar entries: the number of records by the name of their database.
    """

    transaction: int
    entries: dict[bytes, int]


def check_pages(path: Path, progress: Callable[[int], object]) -> Contents:
    """
    Walk all trees in the data file of the store in C{path}.

    Call this only while no process writes to the store.

    @param progress: called now and then with how much is done, in percent.
    @raise BadPage: the file is not as LMDB wrote it.
    @raise OtherFile: another version or build of LMDB wrote the file.
    """
    databases: dict[bytes, Tree] = {}

    def database(name: bytes, value: bytes) -> None:
        if len(value) != TREE.size:
            raise BadPage(f"the record of the tree {name!r} has {len(value)} bytes")
        databases[name] = Tree(*TREE.unpack(value))

    with (path / DATA_FILE).open("rb") as file:
        pages = _Pages(file.fileno(), progress)
        meta = pages.meta
        _Walk(pages, "free pages", meta.free, pages.visit_free, flags=_INTEGER_KEYS).check()
        # Every commit except for the first replaces pages, and frees the replaced pages.
        # So the newest list of free pages must be from the last commit.
        if pages.freed_by != meta.transaction > 1:
            raise BadPage(f"{pages.freed_by} is the last transaction that has freed pages")
        _Walk(pages, "databases", meta.main, database, kinds=(SUBTREE,)).check()
        for name, tree in databases.items():
            _Walk(pages, name.decode(errors="replace"), tree).check()
        pages.check_all_visited()
    return Contents(
        meta.transaction, {name: tree.entries for name, tree in databases.items()}
    )


class _Pages(DataFile):
    """
    The pages of a file, each of which is visited once.
    """

    def __init__(self, descriptor: int, progress: Callable[[int], object]) -> None:
        super().__init__(descriptor)
        self._last = self.meta.last_page
        # The newest transaction that has freed pages.
        self.freed_by = 0
        # Whether any list of free pages is empty.
        self._has_empty_list = False
        self._progress = progress
        self._walked = 0
        # One byte for each page of the file: 1 after the page was visited in a tree or in
        # a free list.
        count = min(os.fstat(descriptor).st_size // self.meta.page_size, self._last + 1)
        self._visited = bytearray(count)
        self._visited[:2] = b"\1\1"
        # Free pages that the file does not contain, because they were never written.
        self._free_beyond: set[int] = set()

    def check_all_visited(self) -> None:
        """
        Check the pages that are neither in a tree nor in a list of free pages.

        LMDB itself may lose pages in this way, so such a page alone is no damage.  But if
        there is also an empty list of free pages, a damaged count may have emptied it.
        """
        if len(self._visited) + len(self._free_beyond) != self._last + 1:
            raise BadPage(f"the file ends before page {self._last}, its last")
        if not all(self._visited) and self._has_empty_list:
            raise BadPage("a list of free pages has lost them")

    def visit(self, number: int) -> bytes:
        self._mark(number)
        self._walked += 1
        if not self._walked % _PAGES_PER_REPORT:
            self._progress(100 * self._walked // len(self._visited))
        return self.read_page(number)

    def visit_overflow(self, number: int, length: int) -> int:
        """
        Visit the overflow pages of a value of C{length} bytes.

        @return: the number of these pages.
        """
        self._mark(number)
        header = self.read(number, 0, _OVERFLOW_HEADER.size)
        own_number, _, flags, count = cast(tuple[int, ...], _OVERFLOW_HEADER.unpack(header))
        # If a longer value was here before, there may be more pages than the value needs.
        enough = count * self.meta.page_size >= _OVERFLOW_HEADER.size + length
        if (own_number, flags, enough) != (number, OVERFLOW, True):
            raise BadPage(f"page {number} does not begin a value of {length} bytes")
        self._mark(number + 1, count - 1)
        self._walked += count
        return count

    def visit_free(self, transaction: bytes, value: bytes) -> None:
        """
        Visit the pages of a list in the free tree.
        """
        self.freed_by = int.from_bytes(transaction)
        self._has_empty_list |= not any(value[: NUMBER.size])
        numbers = [number for (number,) in NUMBER.iter_unpack(value[: len(value) & -8])]
        if not numbers or numbers[0] >= len(numbers):
            raise BadPage("a list of free pages is longer than its record")
        above = self._last + 1
        for number in numbers[1 : numbers[0] + 1]:
            if number >= above:
                raise BadPage(f"a list of free pages has {number} where it ends at {above}")
            above = number
            if number < len(self._visited):
                self._mark(number)
            elif number in self._free_beyond:
                raise BadPage(f"page {number} is free twice")
            else:
                self._free_beyond.add(number)

    def _mark(self, number: int, count: int = 1) -> None:
        if number + count > len(self._visited):
            raise BadPage(f"page {number + count - 1} is beyond the end of the file")
        if self._visited.count(0, number, number + count) != count:
            raise BadPage(f"page {number} is used twice, or is free as well")
        self._visited[number : number + count] = b"\1" * count


@define(eq=False)
class _Walk:
    """
    A walk through one tree, depth first, in the order of its keys.
    """

    _pages: _Pages
    # The name of the tree in error messages.
    _name: str
    _tree: Tree
    # Called with each key and value; not needed to check the pages.
    _read_entry: Callable[[bytes, bytes], None] | None = None
    # The flags that the tree must have, and the flags that its values may have.
    _flags: int = 0
    _kinds: tuple[int, ...] = (0, LARGE)
    _branches: int = 0
    _leaves: int = 0
    _overflow: int = 0
    _entries: int = 0

    def check(self) -> None:
        """
        Walk the tree, and compare the number of pages and entries with the tree's record.
        """
        try:
            self._walk(self._tree)
        except BadPage as error:
            raise BadPage(f"the tree of {self._name}: {error}") from None

    def _walk(self, tree: Tree) -> None:
        if tree.flags != self._flags or tree.depth > _MAX_DEPTH:
            raise BadPage(f"it has flags {tree.flags} and depth {tree.depth}")
        if tree.depth:
            self._subtree(tree.root, 1, b"", None)
        elif tree.root != _NO_PAGE:
            raise BadPage("it has a root and no depth")
        counts = (self._branches, self._leaves, self._overflow, self._entries)
        if counts != tree[3:7]:
            raise BadPage(f"it has {counts} pages and entries, and a record of {tree[3:7]}")

    def _subtree(self, number: int, level: int, low: bytes, high: bytes | None) -> None:
        """
        Walk the subtree of a page.

        @param low: no key in the subtree is less than this one.
        @param high: every key in the subtree is less than this one.
        """
        page = self._pages.visit(number)
        if level == self._tree.depth:
            self._leaf(number, page, low, high)
            return
        self._branches += 1
        # A branch page has two children or more; in the free tree, one or more.
        first, *others = read_nodes(number, page, BRANCH, 1 if self._flags else 2)
        # The key of the first child is not used.
        keys = [low, *(self._sortable(number, node.key) for node in others), high]
        for index, node in enumerate((first, *others)):
            self._subtree(node.child, level + 1, cast(bytes, keys[index]), keys[index + 1])

    def _leaf(self, number: int, page: bytes, low: bytes, high: bytes | None) -> None:
        self._leaves += 1
        previous: bytes | None = None
        for node in read_nodes(number, page, LEAF):
            self._entries += 1
            key = self._sortable(number, node.key)
            if not key:
                raise BadPage(f"a key on page {number} is empty")
            if key < low if previous is None else key <= previous:
                raise BadPage(f"keys on page {number} are out of order")
            if high is not None and key >= high:
                raise BadPage(f"keys on page {number} are not looked for there")
            if node.flags not in self._kinds:
                raise BadPage(f"a value on page {number} is of kind {node.flags}")
            if node.flags & LARGE:
                self._overflow += self._pages.visit_overflow(node.value, node.size)
            if self._read_entry is not None:
                self._read_entry(key, self._pages.read_value(node, page))
            previous = key

    def _sortable(self, number: int, key: bytes) -> bytes:
        """
        Return a key as bytes that sort as LMDB sorts the keys.
        """
        if self._flags != _INTEGER_KEYS:
            return key
        if len(key) != NUMBER.size:
            raise BadPage(f"a key on page {number} has {len(key)} bytes")
        return key[::-1]
