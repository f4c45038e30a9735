"""
Follow the idempotency keys of a store that another process writes to.

A standby reads new rows of keys once a second while it waits for the store's lock.  So it
has nearly all of them in memory when it takes over, and reading the rest takes a
millisecond instead of fifty.

The follower reads the file with C{pread} and not with LMDB.  Nothing can end the process
then: neither a damaged page (LMDB maps the file), nor a full disk (LMDB's table of readers
is a map as well).  Nothing holds pages back either, so a standby that is stopped in the
middle costs the active worker no space.  The price is that a page may be overwritten while
it is read.  Therefore every number is checked before it is used, every row has its
checksum, and rows lead on from each other.  If anything is wrong, the follower forgets what
it has read and starts again.  At the takeover, the store is opened with LMDB, and the row
that was read last must still be there; see L{KeyLog.read}.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import DATA
from pexservice.stores.lmdb.meta_pages import (
    PAGE_HEADER,
    TREE,
    BadPage,
    Meta,
    Tree,
    read_meta,
)
from pexservice.stores.lmdb.transaction import KeyLog

#: How often the store is read.
INTERVAL_SECONDS = 1.0

#: How soon the store is read again while there are more rows.
NEXT_SECONDS = 0.01

#: How many rows are read at a time, most of which have 64 keys or more: about 3 ms.
MAX_ROWS = 128

_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
_OVERFLOW_HEADER_SIZE = 16
_BRANCH, _LEAF = 1, 2
_LARGE = 1
_MAX_DEPTH = 32
_MAX_ROW_BYTES = 1 << 26


class Follower:
    """
    The follower of the store in one directory.
    """

    _log = Logger()

    def __init__(self, path: Path, log: KeyLog, reactor: IReactorTime) -> None:
        """
        @param log: gets the rows.
        """
        self._path = path / DATA
        self._key_log = log
        self._reactor = reactor
        self._call: IDelayedCall | None = None
        self._changed_at: tuple[int, int] | None = None
        self._failing = False

    def start(self) -> None:
        self._call = self._reactor.callLater(0, self._poll)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _poll(self) -> None:
        try:
            more = self._read_more()
        except Exception as error:  # noqa: BLE001 a file that changes may look like anything
            self._failed(error)
            more = False
        else:
            self._failing = False
        delay = NEXT_SECONDS if more else INTERVAL_SECONDS
        self._call = self._reactor.callLater(delay, self._poll)

    def _failed(self, error: Exception) -> None:
        self._changed_at = None
        self._key_log.forget()
        # One failure is nothing: the file may have changed while it was read.
        if self._failing:
            self._log.debug("cannot follow {path}: {error}", path=self._path, error=error)
        self._failing = True

    def _read_more(self) -> bool:
        """
        Read the rows that have been added, up to L{MAX_ROWS} of them.

        @return: whether there may be more.
        """
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            changed_at = (status.st_ino, status.st_mtime_ns)
            if changed_at == self._changed_at:
                return False
            rows = list(islice(_key_rows(file, self._key_log.newest.first), MAX_ROWS))
        finally:
            os.close(file)
        if rows:
            self._key_log.read(iter(rows))
        more = len(rows) == MAX_ROWS
        # Seen before the rows were read: what was added since changes it again.
        self._changed_at = None if more else changed_at
        return more


def _key_rows(file: int, first: int) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the rows of keys from the ordinal C{first} on.

    @param file: the descriptor of a file that another process may write to.
    @raise BadPage: the file changed while it was read.
    @raise BadRecord: the store has a format without such rows.
    """
    meta = read_meta(file)
    trees = {
        name: Tree(*TREE.unpack(record))
        for name, record in _walk(file, meta, meta.main, b"")
    }
    ((_, cursor),) = _walk(file, meta, trees[b"cursor"], records.CURSOR_KEY)
    records.read_cursor(cursor)
    if records.read_version(cursor) == records.FORMAT_VERSION:
        yield from _walk(file, meta, trees[b"keys"], records.row_key(first))


def _walk(file: int, meta: Meta, tree: Tree, first: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield the records of a tree from the key C{first} on, in the order of their keys.
    """
    if tree.depth > _MAX_DEPTH:
        raise BadPage(f"a tree of depth {tree.depth}")
    if tree.depth:
        yield from _walk_page(file, meta, tree.root, tree.depth, first)


def _walk_page(
    file: int, meta: Meta, number: int, depth: int, first: bytes
) -> Iterator[tuple[bytes, bytes]]:
    page = _read(file, meta, number, 0, meta.page_size)
    same_number, _, flags, lower, _ = PAGE_HEADER.unpack_from(page)
    count = (lower - PAGE_HEADER.size) // 2
    if (same_number, flags) != (number, _LEAF if depth == 1 else _BRANCH) or count < 1:
        raise BadPage(f"page {number} is another one now")
    nodes = []
    for at in struct.unpack_from(f"<{count}H", page, PAGE_HEADER.size):
        low, middle, high, key_size = _NODE.unpack_from(page, at)
        begin = at + _NODE.size
        nodes.append((page[begin : begin + key_size], begin + key_size, low, middle, high))
    keys = [key for key, *_ in nodes]
    if depth > 1:
        # The key of the first child means nothing.
        for _, _, low, middle, high in nodes[bisect_right(keys, first, 1) - 1 :]:
            child = low | middle << 16 | high << 32
            yield from _walk_page(file, meta, child, depth - 1, first)
        return
    for key, begin, low, middle, kind in nodes:
        if key < first:
            continue
        length = low | middle << 16
        if kind & _LARGE:
            (overflow,) = _NUMBER.unpack_from(page, begin)
            yield key, _read(file, meta, overflow, _OVERFLOW_HEADER_SIZE, length)
        else:
            yield key, page[begin : begin + length]


def _read(file: int, meta: Meta, number: int, offset: int, length: int) -> bytes:
    if number > meta.last_page or length > _MAX_ROW_BYTES:
        raise BadPage(f"there is no page {number}")
    data = os.pread(file, length, number * meta.page_size + offset)
    if len(data) != length:
        raise BadPage(f"the file ends before page {number} does")
    return data
