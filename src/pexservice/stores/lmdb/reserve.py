"""
The space for the pages of the next commit: in LMDB's map, and on the disk.

LMDB reports a full disk as it reports a broken one, and too late: half of the commit's
pages are written by then, and no process knows which of them the disk has.  So disk space
is allocated before a commit needs it, and a commit that may need more is refused before it
begins.  The most that a commit needs follows from its batch, so the check is usually an
addition.

The map is larger than the file.  A file never shrinks, so the map grows only up to a part
of the disk.  It usually has to grow because another process reads an old state of the
store; see L{pexservice.stores.lmdb.databases.oldest_reader}.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

import lmdb
from twisted.logger import Logger

from pexservice.stores.interface import Batch, Refusal, Space
from pexservice.stores.lmdb.databases import oldest_reader, used_bytes
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.transaction import FULL_KEY_ROW
from pexservice.stores.remembered_keys import MAX_IDEMPOTENCY_KEY_BYTES, USE_SIZE

#: How much of the disk is allocated beyond the pages in use and the need of a commit.
RESERVE_BYTES = 4 << 20

#: How long after a failed allocation the next attempt is made.
ALLOCATION_RETRY_SECONDS = 1.0

#: How much the map grows at a time.
MAP_STEP_BYTES = 64 << 20

#: The part of the disk, of the free space and the store together, that a store may take
#: if it needs more than its map was made for.
MAP_GROWTH_PART = 0.25

#: After the file has grown by so much, the log names a reader that holds pages back.
READER_CHECK_BYTES = 16 << 20

#: How often such a reader is named, at most.
READER_LOG_INTERVAL_SECONDS = 60.0

#: A reader whose state is less than so many commits old is not named.
MIN_READER_COMMITS = 1000

#: How many pages a commit writes at most, in addition to its rows: three times the most
#: that was ever seen.  It writes the paths to the newest rows, the cursor and the rows that
#: are removed, and the list of free pages, which has 512 pages a page.
MAX_COMMIT_PAGES = 32
PAGES_PER_FREE_LIST = 512

#: How many bytes an idempotency key takes at most.
MAX_KEY_BYTES = USE_SIZE + MAX_IDEMPOTENCY_KEY_BYTES + 1

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """
    The space that one open store has, and its reserve on the disk.
    """

    _log = Logger()

    def __init__(
        self,
        directory: Directory,
        env: lmdb.Environment,
        *,
        growth: float,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Measure the space that a store has.

        @param env: the environment of the store in C{directory}.
        @param growth: the part of the disk that the store may take; 0 keeps the map as
            it is.
        """
        self._directory = directory
        self._env = env
        self._growth = growth
        self._monotonic = monotonic
        self._page_size = env.stat()["psize"]
        self._map_size = env.info()["map_size"]
        # Upper bounds of the bytes in use and of the bytes that are allocated.
        self._used = used_bytes(env)
        self._allocated = 0
        # Whether the reserve, too, could be allocated.  A quota of the disk may forbid it.
        self._has_reserve = True
        self._wanted = 0
        self._shortage: str | None = None
        self._is_nearly_full = False
        self._retry_at = monotonic()
        self._next_reader_check = self._used + READER_CHECK_BYTES
        self._next_reader_log = monotonic()

    def needed_bytes(self, batch: Batch) -> int:
        """
        Return how many bytes a commit may add to the file at most.

        A commit usually adds nothing: free pages are used again, unless a reader may see
        them.
        """
        # The newest row of keys may be written again, with the batch's keys.
        key_bytes = MAX_KEY_BYTES * (len(batch.keys) + FULL_KEY_ROW) if batch.keys else 0
        row_pages = (len(batch.transitions) + key_bytes) // self._page_size
        pages = MAX_COMMIT_PAGES + row_pages
        return pages * self._page_size + self._used // PAGES_PER_FREE_LIST

    def grow_map(self, needed: int) -> None:
        """
        Let the map grow if a commit may need that and the disk has the space.

        If the map stays too small, LMDB refuses the commit.  Call this in the reactor's
        thread, with no transaction open: the map may move.
        """
        if self._used + needed <= min(self._map_size, self._next_reader_check):
            return
        self._used = used_bytes(self._env)
        if self._used >= self._next_reader_check:
            self._next_reader_check = self._used + READER_CHECK_BYTES
            self._warn_of_reader()
        until = self._used + needed
        if until > self._map_size:
            size = min(until + MAP_STEP_BYTES, self.space().limit)
            if size > self._map_size:
                self._env.set_mapsize(size)
                self._map_size = size

    def space(self) -> Space:
        """
        Return how much space there is for the store.
        """
        disk, used = self._directory.file_system(), used_bytes(self._env)
        free = disk.f_bavail * disk.f_frsize
        limit = max(self._map_size, int(self._growth * (used + free)))
        return Space(used, limit, free, disk.f_blocks * disk.f_frsize)

    def _warn_of_reader(self) -> None:
        reader, now = oldest_reader(self._env), self._monotonic()
        if (
            reader is None
            or reader.commits_behind < MIN_READER_COMMITS
            or now < self._next_reader_log
        ):
            return
        self._next_reader_log = now + READER_LOG_INTERVAL_SECONDS
        self._log.warn(
            "process {pid} has been reading the store {path} for {commits} commits; no"
            " page that it may see is used again, and the file has grown to {size} MiB",
            pid=reader.pid,
            path=self._directory.path,
            commits=reader.commits_behind,
            size=self._used >> 20,
        )

    def allocate_first(self) -> None:
        """
        Allocate what the first commits need, if the disk has it; else L{shortage} says so.
        """
        with suppress(Refusal):
            self.ensure_space(MAX_COMMIT_PAGES * self._page_size)

    def ensure_space(self, needed: int) -> None:
        """
        Make sure that a commit that adds C{needed} bytes finds them on the disk.

        @raise Refusal: the commit might not find them.
        """
        if self._used + needed > self._allocated:
            self._used = used_bytes(self._env)
            if self._used + needed > self._allocated:
                self._allocate(self._used + needed)
        # Counted as used until the file is measured again.
        self._used += needed

    def _allocate(self, until: int) -> None:
        """
        Allocate C{until} bytes of the file, and the reserve if the disk has so much.
        """
        now = self._monotonic()
        if self._shortage is not None and now < self._retry_at:
            raise Refusal(self._shortage)
        try:
            try:
                self._directory.allocate(until + RESERVE_BYTES)
                self._has_reserve, self._allocated = True, until + RESERVE_BYTES
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._directory.allocate(until)
                self._has_reserve, self._allocated = False, until
        except OSError as error:
            cause = "disk full" if error.errno in _FULL else "no space can be allocated"
            self._shortage = f"{cause}: the store {self._directory.path} ({error.strerror})"
            self._wanted, self._retry_at = until, now + ALLOCATION_RETRY_SECONDS
            raise Refusal(self._shortage) from error
        self._shortage = None
        self.warn_if_nearly_full()

    def warn_if_nearly_full(self) -> None:
        """
        Log a warning when the disk has less than the reserve left, once each time.
        """
        nearly_full = not self._has_reserve or self.space().free < RESERVE_BYTES
        if nearly_full and not self._is_nearly_full:
            self._log.warn(
                "the disk of the store {path} is nearly full: less than {reserve} MiB are"
                " free, and without space steps are refused",
                path=self._directory.path,
                reserve=RESERVE_BYTES >> 20,
            )
        self._is_nearly_full = nearly_full

    def shortage(self) -> Refusal | None:
        """
        Return why a commit would not be begun now, if so, as far as is known.

        After a shortage, this method tries again whether there is space.
        """
        if self._shortage is None:
            return None
        try:
            self._allocate(self._wanted)
        except Refusal as refusal:
            return refusal
        return None
