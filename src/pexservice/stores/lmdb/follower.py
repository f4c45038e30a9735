"""
Follow the idempotency keys of a store that another process writes to.

A standby reads new rows of keys four times a second while it waits for the store's lock.
At a takeover, it has nearly all keys in memory, and reads the remaining keys in a few
milliseconds.  To read all keys would take a hundred milliseconds.

The follower reads the data file with C{pread} and not with LMDB, for two reasons.  First,
LMDB maps the data file and the table of readers into memory, so a damaged page or a full
disk could end the process.  Second, LMDB does not reuse a page that a reader may see, so
the file would grow while a standby hangs.

But without LMDB, the active worker may overwrite a page while the follower reads the page.
So the follower checks every page number before it reads that page, and the checksum of
every row.  It also checks that the first ordinal of a row follows the last ordinal of the
row before.  If a check fails, the follower forgets all rows and starts again.  At the
takeover, the worker opens the store with LMDB, and checks that the store still has the last
row that the follower read; see L{KeyReader.read}.
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
from pexservice.stores.lmdb.page_format import (
    BRANCH,
    LEAF,
    TREE,
    BadPage,
    DataFile,
    Tree,
    read_nodes,
)
from pexservice.stores.lmdb.transaction import KeyReader

#: The delay before the next poll if there are no more rows.  A takeover must read the keys
#: that were added since the last poll.  Under full load, these are up to 6,000 keys (25,000
#: in a second), which take 6 ms.
FOLLOW_INTERVAL_SECONDS = 0.25

#: The delay before the next poll if there are more rows.
MORE_ROWS_SECONDS = 0.001

#: One poll reads at most this many rows.  Most rows have 64 keys or more, so a poll takes
#: at most about 3 ms.
MAX_ROWS = 128

#: One poll reads at most this many pages.  Without this limit, a poll would not end if a
#: damaged page were its own descendant.
MAX_PAGES = 4096

#: A longer row is not read: a damaged file may contain any length.
MAX_ROW_BYTES = 1 << 26

Item = tuple[bytes, bytes]


@define(eq=False)
class Follower:
    """
    Polls the data file of a store that another process has locked.

    It passes the rows of keys that it finds to C{key_reader}, which remembers the keys.
    """

    _log = Logger()

    _data_file: Path
    _key_reader: KeyReader
    _reactor: IReactorTime
    _call: IDelayedCall | None = None
    # The inode and the modification time of the data file when its last row was read.
    _version: tuple[int, int] | None = None
    _failures: int = 0

    def start(self) -> None:
        self._call = self._reactor.callLater(0, self._poll)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _poll(self) -> None:
        more = False
        try:
            more = self._read_more()
            self._failures = 0
        except Exception as error:  # noqa: BLE001 a file that changes may contain anything
            self._version = None
            self._key_reader.forget()
            self._failures += 1
            # One failure is normal, because the file may have changed while it was read.
            if self._failures == 2:  # noqa: PLR2004 the second failure in a row
                self._log.info(
                    "cannot follow the keys in {path} ({error}); a takeover reads them all",
                    path=self._data_file,
                    error=error,
                )
        delay = MORE_ROWS_SECONDS if more else FOLLOW_INTERVAL_SECONDS
        self._call = self._reactor.callLater(delay, self._poll)

    def _read_more(self) -> bool:
        """
        Read the rows that have been added, up to L{MAX_ROWS} of them.

        @return: whether there may be more.
        """
        # Without O_NONBLOCK, a FIFO in the place of the file would block this process.
        file = os.open(self._data_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            version = (status.st_ino, status.st_mtime_ns)
            if version == self._version:
                return False
            first = self._key_reader.newest_row.first_ordinal
            rows = _File(file).key_rows(first)
            new_rows = list(islice(rows, MAX_ROWS))
        finally:
            os.close(file)
        if new_rows:
            self._key_reader.read(iter(new_rows))
        more = len(new_rows) == MAX_ROWS
        # The modification time was read before the rows.  So if there was a commit since
        # then, the next poll sees a new time, and reads again.  If the clock of the file
        # system is too coarse for that, the poll after the following commit reads the rows.
        self._version = None if more else version
        return more


class _File(DataFile):
    """
    The file of a store that another process may write to.
    """

    # How many pages this poll may still read.
    _pages_left = MAX_PAGES

    def key_rows(self, first_ordinal: int) -> Iterator[Item]:
        """
        Yield the rows of keys from C{first_ordinal} on; none in a store of format 1.

        @raise BadPage: the file changed while it was read, or is damaged.
        """
        trees = {
            name: Tree(*TREE.unpack(value))
            for name, value in self.walk(self.meta.main, b"")
        }
        ((_, cursor),) = self.walk(trees[b"cursor"], records.CURSOR_KEY)
        if records.decode_cursor(cursor).version == records.FORMAT_VERSION:
            yield from self.walk(trees[b"keys"], records.encode_first_item(first_ordinal))

    def walk(self, tree: Tree, first_key: bytes) -> Iterator[Item]:
        """
        Yield the records of a tree from C{first_key} on, in the order of LMDB's keys.
        """
        if tree.depth:
            yield from self._walk_page(tree.root, tree.depth, first_key)

    def _walk_page(self, number: int, depth: int, first_key: bytes) -> Iterator[Item]:
        page = self.read_page(number)
        if depth > 1:
            nodes = read_nodes(number, page, BRANCH)
            # LMDB does not use the key of the first child.
            keys = [node.key for node in nodes]
            for node in nodes[bisect_right(keys, first_key, 1) - 1 :]:
                yield from self._walk_page(node.child, depth - 1, first_key)
            return
        for node in read_nodes(number, page, LEAF):
            if node.key >= first_key:
                yield node.key, self.read_value(node, page)

    def read(self, number: int, offset: int, length: int) -> bytes:
        self._pages_left -= 1
        if number > self.meta.last_page or length > MAX_ROW_BYTES or self._pages_left < 0:
            raise BadPage(f"page {number} is not part of a tree")
        return super().read(number, offset, length)
