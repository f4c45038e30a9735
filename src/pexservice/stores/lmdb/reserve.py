"""
The space for the pages of the next commit: in LMDB's map, and on the disk.

LMDB reports a full disk with the same error as a broken disk, and too late: it has already
written some pages of the commit, and no process knows which of them are on the disk.  So
disk space is allocated before a commit needs it, and a commit for which there may be too
little space is refused before it begins.  The size of a batch shows how much space its
commit needs at most, so the check is usually one addition.

LMDB's map limits the size of the file.  The map is enlarged when the file needs that, but
only up to a part of the disk, because the file never shrinks.  The file usually grows
because another process reads an old state of the store; see
L{pexservice.stores.lmdb.databases.oldest_reader}.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress

import lmdb
from twisted.logger import Logger

from pexservice.stores.errors import Refusal
from pexservice.stores.interface import Batch, Space
from pexservice.stores.lmdb.databases import oldest_reader, used_bytes
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.transaction import FULL_ROW_KEYS
from pexservice.stores.remembered_keys import MAX_IDEMPOTENCY_KEY_BYTES, USE_SIZE

#: How many bytes are allocated in addition to the pages in use and to the pages that the
#: next commit may add.
RESERVE_BYTES = 4 << 20

#: The shortest time from a failed allocation to the next attempt.
ALLOCATION_RETRY_SECONDS = 1.0

#: The map is enlarged by this much at a time.
MAP_STEP_BYTES = 64 << 20

#: The map may have at most this part of the sum of the pages in use and the free space of
#: the disk.
MAX_DISK_FRACTION = 0.25

#: When the pages in use have grown by this much, the log names the process that reads the
#: oldest state.
READER_CHECK_BYTES = 16 << 20

#: The shortest time between two such log lines.
READER_LOG_INTERVAL_SECONDS = 60.0

#: The log names the process only if the state that it reads is this many commits old.
MIN_READER_COMMITS = 1000

#: In addition to the rows and to the list of free pages, a commit writes at most this many
#: pages: the pages of LMDB's trees on the way to the newest rows, to the cursor and to the
#: removed rows.  No test has observed more than a third of this number.
MAX_COMMIT_PAGES = 32

#: A page of LMDB's list of free pages has this many entries.
FREE_LIST_ENTRIES_PER_PAGE = 512

#: The size of the longest idempotency key with its use in a row of keys.
MAX_KEY_BYTES = USE_SIZE + MAX_IDEMPOTENCY_KEY_BYTES + 1

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """
    The space in the map and on the disk for the next commits of one open store.

    A commit in the executor's thread calls L{ensure_space}.  At the same time, the
    reactor's thread may call L{check_shortage}, and both threads may allocate.  This is
    safe without a lock.  Each thread records only bytes that it has allocated itself, so
    the recorded number may be too low, but never too high.  At worst, a shortage is
    reported for a while after it is over, or a line is logged twice.
    """

    _log = Logger()

    def __init__(
        self, directory: Directory, env: lmdb.Environment, monotonic: Callable[[], float]
    ) -> None:
        """
        Measure the map and the file, without allocating anything.

        @param env: the environment of the store in C{directory}.
        """
        self._directory = directory
        self._env = env
        self._monotonic = monotonic
        self._page_size = env.stat()["psize"]
        self._map_size = env.info()["map_size"]
        # The pages in use have at most this many bytes.
        self._used = used_bytes(env)
        # At least this many bytes of the file are allocated.
        self._allocated = 0
        # Whether the last allocation included L{RESERVE_BYTES}.
        self._has_reserve = True
        # The last failed allocation was for this many bytes from the beginning of the file.
        self._needed_until = 0
        self._shortage: str | None = None
        self._is_nearly_full = False
        self._retry_at = monotonic()
        self._next_reader_check = self._used + READER_CHECK_BYTES
        self._next_reader_log = monotonic()

    def max_growth(self, batch: Batch) -> int:
        """
        Return how many bytes the commit of C{batch} may add to the file at most.

        Usually it adds nothing, because LMDB reuses free pages that no process reads.
        """
        # The commit may write the newest row of keys again, together with the new keys.
        key_bytes = MAX_KEY_BYTES * (len(batch.keys) + FULL_ROW_KEYS) if batch.keys else 0
        row_pages = (len(batch.transitions) + key_bytes) // self._page_size
        pages = MAX_COMMIT_PAGES + row_pages
        return pages * self._page_size + self._used // FREE_LIST_ENTRIES_PER_PAGE

    def grow_map(self, max_growth: int) -> None:
        """
        Enlarge the map if it could be too small for a commit that adds C{max_growth} bytes.

        The map does not grow beyond the limit in L{space}; LMDB refuses a commit that does
        not fit.  Call this in the reactor's thread while no transaction is open, because
        LMDB may move the map.
        """
        if self._used + max_growth <= min(self._map_size, self._next_reader_check):
            return
        self._used = used_bytes(self._env)
        if self._used >= self._next_reader_check:
            self._next_reader_check = self._used + READER_CHECK_BYTES
            self._warn_of_reader()
        until = self._used + max_growth
        if until > self._map_size:
            size = min(until + MAP_STEP_BYTES, self.space().limit)
            if size > self._map_size:
                self._env.set_mapsize(size)
                self._map_size = size

    def space(self) -> Space:
        """
        Measure the space of the store, and how far its map may grow.
        """
        disk, used = self._directory.file_system_status(), used_bytes(self._env)
        free = disk.f_bavail * disk.f_frsize
        limit = max(self._map_size, int(MAX_DISK_FRACTION * (used + free)))
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
            path=self._directory.configured_path,
            commits=reader.commits_behind,
            size=self._used >> 20,
        )

    def allocate_first(self) -> None:
        """
        Allocate the space that the first commit needs.

        If the disk is full, this raises nothing, but L{check_shortage} does.
        """
        with suppress(Refusal):
            self.ensure_space(MAX_COMMIT_PAGES * self._page_size)

    def ensure_space(self, max_growth: int) -> None:
        """
        Allocate the disk space of a commit that may add C{max_growth} bytes to the file.

        @raise Refusal: the disk may have too little space.
        """
        if self._used + max_growth > self._allocated:
            self._used = used_bytes(self._env)
            if self._used + max_growth > self._allocated:
                self._allocate(self._used + max_growth)
        # Assume that the commit adds C{max_growth} bytes, until the file is measured again.
        self._used += max_growth

    def _allocate(self, until: int) -> None:
        """
        Allocate the first C{until} bytes of the file, and L{RESERVE_BYTES} if possible.

        @raise Refusal: the C{until} bytes could not be allocated.
        """
        now, shortage = self._monotonic(), self._shortage
        if shortage is not None and now < self._retry_at:
            raise Refusal(shortage)
        try:
            try:
                self._directory.allocate_data_file(until + RESERVE_BYTES)
                self._has_reserve, self._allocated = True, until + RESERVE_BYTES
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._directory.allocate_data_file(until)
                self._has_reserve, self._allocated = False, until
        except OSError as error:
            cause = "disk full" if error.errno in _FULL else "no space can be allocated"
            shortage = (
                f"{cause}: the store {self._directory.configured_path} ({error.strerror})"
            )
            self._needed_until, self._retry_at = until, now + ALLOCATION_RETRY_SECONDS
            self._shortage = shortage
            raise Refusal(shortage) from error
        self._shortage = None
        self.warn_if_nearly_full()

    def warn_if_nearly_full(self) -> None:
        """
        Log a warning if the disk has less free space than the reserve.

        The warning is logged once, and again only after there was more free space.
        """
        nearly_full = not self._has_reserve or self.space().free < RESERVE_BYTES
        if nearly_full and not self._is_nearly_full:
            self._log.warn(
                "the disk of the store {path} is nearly full: less than {reserve} MiB are"
                " free, and without space steps are refused",
                path=self._directory.configured_path,
                reserve=RESERVE_BYTES >> 20,
            )
        self._is_nearly_full = nearly_full

    def check_shortage(self) -> None:
        """
        Check that the last allocation succeeded, and otherwise try it again.

        @raise Refusal: the disk still has no space for the next commit.
        """
        if self._shortage is not None:
            self._allocate(self._needed_until)
