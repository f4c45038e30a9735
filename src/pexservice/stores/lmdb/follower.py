"""
Follow the idempotency keys of a store that another process writes to.

A standby reads new rows of keys four times a second while it waits for the store's lock.
So it has nearly all of them in memory when it takes over, and reading the rest takes a
few milliseconds instead of a hundred.

The follower reads the file with C{pread} and not with LMDB, for two reasons.  LMDB maps the
file and its table of readers into memory, so a damaged page or a full disk could end the
process.  And LMDB reuses no page that a reader may see, so a stopped standby would make the
file grow.

But without LMDB, the active worker may overwrite a page while the follower reads it.
Therefore every number is checked before it is used, every row has its checksum, and a row
must begin where the row before ends.  If anything is wrong, the follower forgets all rows
and starts again.  At the takeover, the store is opened with LMDB, and the row that was read
last must still be there; see L{KeyReader.read}.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import DATA
from pexservice.stores.lmdb.page_format import (
    BRANCH,
    LARGE,
    LEAF,
    PAGE_HEADER,
    TREE,
    BadPage,
    Meta,
    Tree,
    read_meta,
    read_nodes,
)
from pexservice.stores.lmdb.transaction import KeyReader

#: How often the store is read.  Reading the keys that were added since then is part of the
#: takeover: 1 ms for a thousand keys, and a second of load may add 25,000.
INTERVAL_SECONDS = 0.25

#: How soon the store is read again if there are more rows.
NEXT_SECONDS = 0.001

#: How many rows one poll reads, which takes about 3 ms: most rows have 64 keys or more.
MAX_ROWS = 128

#: No poll reads more pages or a longer row than this, whatever a damaged file contains.
MAX_PAGES = 4096
MAX_ROW_BYTES = 1 << 26

Item = tuple[bytes, bytes]


class Follower:
    _log = Logger()

    def __init__(self, path: Path, key_reader: KeyReader, reactor: IReactorTime) -> None:
        """
        @param key_reader: reads the rows that the follower finds.
        """
        self._path = path / DATA
        self._key_reader = key_reader
        self._reactor = reactor
        self._call: IDelayedCall | None = None
        self._changed_at: tuple[int, int] | None = None
        self._failures = 0

    def start(self) -> None:
        self._call = self._reactor.callLater(0, self._poll)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _poll(self) -> None:
        try:
            more = self._read_more()
        except Exception as error:  # noqa: BLE001 a file that changes may contain anything
            self._failed(error)
            more = False
        else:
            self._failures = 0
        delay = NEXT_SECONDS if more else INTERVAL_SECONDS
        self._call = self._reactor.callLater(delay, self._poll)

    def _failed(self, error: Exception) -> None:
        self._changed_at = None
        self._key_reader.forget()
        self._failures += 1
        # One failure is no problem: the file may have changed while it was read.
        if self._failures == 2:  # noqa: PLR2004 the second failure in a row
            self._log.info(
                "cannot follow the keys in {path} ({error}); a takeover reads them all",
                path=self._path,
                error=error,
            )

    def _read_more(self) -> bool:
        """
        Read the rows that have been added, up to L{MAX_ROWS} of them.

        @return: whether there may be more.
        """
        # Without O_NONBLOCK, a FIFO in the place of the file would block this process.
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            changed_at = (status.st_ino, status.st_mtime_ns)
            if changed_at == self._changed_at:
                return False
            first = self._key_reader.newest.first_ordinal
            rows = _File(file, read_meta(file)).key_rows(first)
            new_rows = list(islice(rows, MAX_ROWS))
        finally:
            os.close(file)
        if new_rows:
            self._key_reader.read(iter(new_rows))
        more = len(new_rows) == MAX_ROWS
        # This time was read before the rows.  So rows that were added later are seen next.
        self._changed_at = None if more else changed_at
        return more


@define
class _File:
    """
    The file of a store that another process may write to.

    @ivar pages: how many more pages may be read.  In a damaged file, a page may be its own
        descendant.
    """

    descriptor: int
    meta: Meta
    pages: int = MAX_PAGES

    def key_rows(self, first: int) -> Iterator[Item]:
        """
        Yield the rows of keys from the ordinal C{first} on; none in a store of format 1.

        @raise BadPage: the file changed while it was read, or is damaged.
        """
        trees = {
            name: Tree(*TREE.unpack(value))
            for name, value in self.walk(self.meta.main, b"")
        }
        ((_, cursor),) = self.walk(trees[b"cursor"], records.CURSOR_KEY)
        version, _, _ = records.decode_cursor(cursor)
        if version == records.FORMAT_VERSION:
            yield from self.walk(trees[b"keys"], records.row_key(first))

    def walk(self, tree: Tree, first: bytes) -> Iterator[Item]:
        """
        Yield the records of a tree from the key C{first} on, in the order of their keys.
        """
        if tree.depth:
            yield from self._walk_page(tree.root, tree.depth, first)

    def _walk_page(self, number: int, depth: int, first: bytes) -> Iterator[Item]:
        page = self._read(number, 0, self.meta.page_size)
        if depth > 1:
            nodes = read_nodes(number, page, BRANCH)
            # The key of the first child is not used.
            keys = [node.key for node in nodes]
            for node in nodes[bisect_right(keys, first, 1) - 1 :]:
                yield from self._walk_page(node.child, depth - 1, first)
            return
        for node in read_nodes(number, page, LEAF):
            if node.key < first:
                continue
            if node.flags & LARGE:
                yield node.key, self._read(node.value, PAGE_HEADER.size, node.size)
            else:
                yield node.key, page[node.value : node.value + node.size]

    def _read(self, number: int, offset: int, length: int) -> bytes:
        self.pages -= 1
        if number > self.meta.last_page or length > MAX_ROW_BYTES or self.pages < 0:
            raise BadPage(f"page {number} is not part of a tree")
        begin = number * self.meta.page_size + offset
        data = os.pread(self.descriptor, length, begin)
        if len(data) != length:
            raise BadPage(f"the file ends before page {number} does")
        return data
