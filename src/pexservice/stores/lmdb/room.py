"""
The room for the pages of the next commit: in the map, and on the disk.

LMDB reports a full disk as it reports a broken one, and neither in time: the pages of
the commit are half written by then, and nobody knows what the disk has.  So the room is
taken before it is needed, and a commit that might need more than that is not begun.  The
most that a commit needs follows from its batch, so as a rule the check is an addition.

The map is larger than the file.  A file never shrinks, so the map grows only within a
part of the disk, and mostly it needs to because another process reads an old state of
the store; see L{pexservice.stores.lmdb.databases.oldest_snapshot}.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import lmdb
from twisted.logger import Logger

from pexservice.stores.interface import Batch, NotTaken, Space
from pexservice.stores.lmdb.databases import oldest_snapshot, used_bytes
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.transaction import FULL_KEY_ROW
from pexservice.stores.remembered_keys import LONGEST_KEY, USE_SIZE

#: How much of the disk is taken beyond the pages in use and what a commit needs.  Bytes.
RESERVE = 4 << 20

#: How long after room could not be had the next attempt is made.  Seconds.
RETRY = 1.0

#: How much the map grows at a time.  Bytes.
STEP = 64 << 20

#: The part of the disk, of what is free and what the store has, that a store may take
#: if it needs more than its map was made for.
GROWTH = 0.25

#: A file that has grown by so much may have a reader that holds pages back.  Bytes.
NOTICED = 16 << 20

#: How often such a reader is named, at most.  Seconds.
NAME_INTERVAL = 60.0

#: A reader whose state is less than so many commits old is not named.
RECENT = 1000

#: How many pages a commit writes at most, besides its rows: three times what was ever seen.
#: It writes the paths to the newest rows, the cursor and the rows that are removed, and the
#: list of free pages, which has 512 pages a page.
COMMIT_PAGES = 32
FREE_LISTED = 512

#: How many bytes an idempotency key takes at most.
KEY_BYTES = USE_SIZE + LONGEST_KEY + 1

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Room:
    """
    The room of one open store.
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
        Measure the room of the store in C{directory}, which is open as C{env}.

        @param growth: the part of the disk that the store may take; 0 keeps the map as
            it is.
        """
        self._directory = directory
        self._env = env
        self._growth = growth
        self._monotonic = monotonic
        self._page = env.stat()["psize"]
        self._map = env.info()["map_size"]
        # What the file has in use at most, in bytes, and what is set aside for it.
        self._used = used_bytes(env)
        self._set_aside = 0
        self._wanted = 0
        self._shortage: str | None = None
        self._low = False
        self._retry_at = monotonic()
        self._noticed = self._used + NOTICED
        self._name_at = monotonic()

    def needed(self, batch: Batch) -> int:
        """
        Return how many bytes a commit may add to the file at most.

        As a rule a commit adds nothing, since free pages are used again, unless a reader
        might see them.
        """
        # The newest row of keys may be written again, with the batch's keys.
        key_bytes = KEY_BYTES * (len(batch.keys) + FULL_KEY_ROW) if batch.keys else 0
        pages = COMMIT_PAGES + (len(batch.transitions) + key_bytes) // self._page
        return pages * self._page + self._used // FREE_LISTED

    def stretch_map(self, needed: int) -> None:
        """
        Let the map grow if a commit might need that and the disk allows it.

        If the map stays too small, LMDB refuses the commit.  Call this in the reactor's
        thread, with no transaction open: the map may move.
        """
        if self._used + needed <= min(self._map, self._noticed):
            return
        self._used = used_bytes(self._env)
        if self._used >= self._noticed:
            self._noticed = self._used + NOTICED
            self._name_reader()
        until = self._used + needed
        if until > self._map and (size := min(until + STEP, self.limit())) > self._map:
            self._env.set_mapsize(size)
            self._map = size

    def limit(self) -> int:
        """
        Return the size that the file may grow to, in bytes.
        """
        return self.space().limit

    def space(self) -> Space:
        """
        Return how much room there is for the store.
        """
        disk, used = self._directory.file_system(), used_bytes(self._env)
        free = disk.f_bavail * disk.f_frsize
        limit = max(self._map, int(self._growth * (used + free)))
        return Space(used, limit, free, disk.f_blocks * disk.f_frsize)

    def _name_reader(self) -> None:
        snapshot, now = oldest_snapshot(self._env), self._monotonic()
        if snapshot is None or snapshot.commits < RECENT or now < self._name_at:
            return
        self._name_at = now + NAME_INTERVAL
        self._log.warn(
            "process {pid} has been reading the store {path} for {commits} commits; no"
            " page that it may see is used again, and the file has grown to {size} MiB",
            pid=snapshot.pid,
            path=self._directory.path,
            commits=snapshot.commits,
            size=self._used >> 20,
        )

    def reserve(self) -> None:
        """
        Set aside the room that the first commits need, if the disk has it.
        """
        try:
            self.claim(COMMIT_PAGES * self._page)
        except NotTaken:
            # Until there is room, the store is only read.
            return

    def claim(self, needed: int) -> None:
        """
        Make sure that a commit that adds C{needed} bytes finds them on the disk.

        @raise NotTaken: the commit might not find them.
        """
        if self._used + needed > self._set_aside:
            self._used = used_bytes(self._env)
            if self._used + needed > self._set_aside:
                self._take(self._used + needed)
        # Counted as used until the file is looked at again.
        self._used += needed

    def _take(self, until: int) -> None:
        """
        Set aside C{until} bytes of the file, and some for later if they are there.
        """
        now = self._monotonic()
        if self._shortage is not None and now < self._retry_at:
            raise NotTaken(self._shortage)
        try:
            for length in (until + RESERVE, until):
                try:
                    self._directory.set_aside(length)
                except OSError as error:
                    if error.errno not in _FULL or length == until:
                        raise
                else:
                    self._set_aside, self._shortage = length, None
                    self._warn_if(low=length == until)
                    return
        except OSError as error:
            cause = "disk full" if error.errno in _FULL else "no room can be set aside"
            self._shortage = f"{cause}: the store {self._directory.path} ({error.strerror})"
            self._wanted, self._retry_at = until, now + RETRY
            raise NotTaken(self._shortage) from error

    def _warn_if(self, *, low: bool) -> None:
        """
        Log that the reserve cannot be had any more, once each time.
        """
        if low and not self._low:
            self._log.warn(
                "the disk of the store {path} is nearly full: less than {reserve} MiB are"
                " free, and without room steps are refused",
                path=self._directory.path,
                reserve=RESERVE >> 20,
            )
        self._low = low

    def shortage(self) -> NotTaken | None:
        """
        Return why a commit would not be begun now, if so, as far as is known.

        After a while, this method tries again whether there is room.
        """
        if self._shortage is None:
            return None
        try:
            self._take(self._wanted)
        except NotTaken as refusal:
            return refusal
        return None
