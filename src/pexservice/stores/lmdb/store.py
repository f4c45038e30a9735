"""
The store on one machine: LMDB, one durable transaction a batch.

A commit flushes the data pages, then the meta page that makes them valid, so a
power cut at any moment leaves the state before it or after it.  LMDB's own flags
that trade this away (C{writemap}, C{metasync=False}, C{sync=False}) are not used.

Retention is part of the commit: what is no longer kept goes in the transaction that
adds, so its pages are used again and the file stops growing, but for a page more
whenever a batch touches more of them than any did before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
from twisted.internet.defer import Deferred, execute, fail, succeed
from zope.interface import implementer

from pexservice.stores.interface import (
    KEPT_KEYS,
    Batch,
    IOnDisk,
    IStore,
    NotTaken,
    Remembered,
    Row,
    Snapshot,
    Space,
    StoreBusy,
    StoreUnusable,
)
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import (
    MAP_BASE,
    Databases,
    make_store,
    open_databases,
    used_bytes,
)
from pexservice.stores.lmdb.directory import DATA, Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.history import read_history
from pexservice.stores.lmdb.readers import oldest_snapshot
from pexservice.stores.lmdb.room import GROWTH, RESERVE, Room
from pexservice.stores.lmdb.transaction import Extent, Kept, read_extent, write_batch
from pexservice.stores.lmdb.verify import (
    READING_ERRORS,
    blame,
    check_cursor,
    verify_in_child,
)
from pexservice.stores.lmdb.witness import Witness

#: Bytes of the map for each transition in the journal.  A row of one transition takes
#: 37 bytes and LMDB's 16, in pages that are half full at worst.
MAP_PER_TRANSITION = 128

#: How long a commit trusts that the store is where it was.  Seconds: to look is a system
#: call, and as long as many commits of a fast disk take together.
PLACE_INTERVAL = 0.1


@implementer(IStore, IOnDisk)
class LmdbStore:
    """
    @ivar directory: where it is.
    """

    def __init__(
        self,
        directory: Directory,
        executor: CommitExecutor,
        *,
        journal: int = 100_000,
        verify: Callable[[Path], None] = verify_in_child,
        waiting: Callable[[], object] | None = None,
        kept_keys: int = KEPT_KEYS,
        map_size: int | None = None,
        growth: float = GROWTH,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param journal: how many transitions the history keeps, 1 or more.
        @param verify: reads the whole store before this process maps it.
        @param waiting: called when another process has the store, to wait for it
            then; by default it is not waited for.
        @param map_size: bytes; by default enough for C{journal}.
        @param growth: the part of the disk that it may take beyond that.
        """
        self.directory = directory
        self._executor = executor
        self._kept = Kept(journal, kept_keys)
        self._verify = verify
        self._waiting = waiting
        self._map_size = map_size or MAP_BASE + journal * MAP_PER_TRANSITION
        self._growth = growth
        self._monotonic = monotonic
        self._check_place_at = monotonic()
        self._opened: Databases | None = None
        self._extent = Extent(0, 1, 0)
        self._room: Room | None = None
        self._witness = Witness(directory.path)

    def __repr__(self) -> str:
        return f"<LmdbStore {self.directory.path}>"

    @property
    def _databases(self) -> Databases:
        if self._opened is None:
            raise StoreUnusable(f"the store {self.directory.path} is not open")
        return self._opened

    def open(self) -> Deferred[tuple[int, int]]:
        """
        See L{IStore.open}.  Blocks, but for waiting: there is nobody to serve yet.
        """
        return self._own().addCallback(lambda _: self._open())

    def _own(self) -> Deferred[None]:
        if self._waiting is None:
            return execute(self.directory.own)
        try:
            self.directory.own()
        except StoreBusy:
            self._waiting()
            # Who takes over has no time to read it all; the last owner served from it.
            self._verify = _trust
            return self._executor.wait(self.directory.await_ownership)
        except StoreUnusable:
            return fail()
        return succeed(None)

    def _open(self) -> tuple[int, int]:
        path = self.directory.path
        try:
            try:
                if self.directory.holds_a_store():
                    self.directory.tidy()
                    self.directory.remember_file()
                    self._verify(path)
                else:
                    self._make()
                    self.directory.remember_file()
                return self._open_environment(path)
            except READING_ERRORS as error:
                raise blame(path, error) from error
        except BaseException:
            self._close()
            raise

    def _make(self) -> None:
        try:
            self.directory.install(make_store)
        except lmdb.Error as error:
            raise StoreUnusable(
                f"the store {self.directory.path} cannot be made: {error}"
            ) from error

    def _open_environment(self, path: Path) -> tuple[int, int]:
        size, map_size = (path / DATA).stat().st_size, self._map_size
        if size > map_size:
            # It has grown, or the journal was longer; and needs some room to go on.
            map_size = size + RESERVE
        self.directory.make_lock_file()
        opened = open_databases(path, map_size)
        try:
            opened.env.reader_check()
            with opened.env.begin() as txn:
                revision, position = check_cursor(txn, opened.cursor, opened.journal)
                extent = read_extent(txn, opened, revision)
        except BaseException:
            opened.env.close()
            raise
        self._opened, self._extent = opened, extent
        if not self.directory.has_its_name():
            raise self._replaced()
        self._witness.open(revision)
        self._room = Room(
            self.directory, opened.env, growth=self._growth, monotonic=self._monotonic
        )
        self._room.reserve()
        return revision, position

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        See L{IStore.commit}.
        """
        room = self._room
        if room is None:
            return fail(StoreUnusable(f"the store {self.directory.path} is not open"))
        needed = room.needed(batch, self._kept.surplus_keys(self._extent, batch))
        try:
            # Here, where no transaction is open.
            room.stretch_map(needed)
        except lmdb.Error:
            return fail()
        return self._executor.run(lambda: self._commit(batch, room, needed))

    def _replaced(self) -> StoreUnusable:
        return StoreUnusable(f"another store was put in the place of {self.directory.path}")

    def _check_place(self) -> None:
        """
        See, now and then, that what is committed will be found by the next process.

        @raise NotTaken: there is nothing under the store's name now.
        @raise StoreUnusable: there is something else, which the next process opens.
        """
        now = self._monotonic()
        if now < self._check_place_at:
            return
        try:
            ours = self.directory.has_its_name()
        except OSError as error:
            raise NotTaken(
                f"the store {self.directory.path} was moved away ({error.strerror})"
            ) from error
        if not ours:
            raise self._replaced()
        self._check_place_at = now + PLACE_INTERVAL

    def _commit(self, batch: Batch, room: Room, needed: int) -> None:
        self._check_place()
        room.claim(needed)
        # Not "with": in lmdb 1.4 leaving the block after a commit raises.
        txn = self._databases.env.begin(write=True)
        try:
            extent = write_batch(txn, self._databases, batch, self._extent, self._kept)
        except (lmdb.MapFullError, lmdb.TxnFullError) as error:
            txn.abort()
            self._forget_dead_readers()
            raise self._full() from error
        except BaseException:
            txn.abort()
            raise
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            # Found while it looked for pages, before it wrote any.
            self._forget_dead_readers()
            raise self._full() from error
        self._witness.write(extent.revision)
        trimmed = extent.oldest != self._extent.oldest
        self._extent = extent
        if trimmed:
            self._forget_dead_readers()

    def _forget_dead_readers(self) -> None:
        """
        No page is used again that a reader might see, and a process that was killed
        while it made a backup has left one.
        """
        self._databases.env.reader_check()

    def _full(self) -> NotTaken:
        reason = f"the store {self.directory.path} is full"
        if (snapshot := self.oldest_snapshot()) is not None:
            reason += (
                f", and process {snapshot.pid} has been reading it for"
                f" {snapshot.commits} commits"
            )
        return NotTaken(reason)

    def recall(self, key: bytes) -> Deferred[Remembered | None]:
        """
        See L{IStore.recall}.  A look-up in mapped memory, so inline.
        """
        return execute(self._recall, key)

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        try:
            with self._databases.env.begin() as txn:
                yield txn
        except lmdb.PanicError as error:
            # A commit has failed in the thread and is about to say so.
            raise NotTaken("the store failed") from error

    def _recall(self, key: bytes) -> Remembered | None:
        databases = self._databases
        with self._reading() as txn:
            value = txn.get(records.name_key(key), db=databases.keys)
        return None if value is None else records.read_remembered(key, value)

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        See L{IStore.history}.  As L{recall}, inline.
        """
        return execute(self._history, before, limit)

    def _history(self, before: int | None, limit: int) -> list[Row]:
        newest = self._extent.revision
        with self._reading() as txn:
            return read_history(
                txn,
                self._databases.journal,
                before=newest + 1 if before is None else min(before, newest + 1),
                forgotten=newest - self._kept.transitions,
                limit=limit,
            )

    def space(self) -> Space | None:
        """
        See L{IOnDisk.space}.
        """
        disk = self.directory.file_system()
        if self._opened is None or self._room is None or disk is None:
            return None
        return Space(
            used=used_bytes(self._opened.env),
            limit=self._room.limit(),
            free=disk.f_bavail * disk.f_frsize,
            size=disk.f_blocks * disk.f_frsize,
        )

    def shortage(self) -> NotTaken | None:
        """
        See L{IOnDisk.shortage}.
        """
        return None if self._room is None else self._room.shortage()

    def oldest_snapshot(self) -> Snapshot | None:
        """
        See L{IOnDisk.oldest_snapshot}.
        """
        return None if self._opened is None else oldest_snapshot(self._opened.env)

    def close(self) -> Deferred[None]:
        """
        See L{IStore.close}.
        """
        return execute(self._close)

    def _close(self) -> None:
        self._executor.stop()
        self._witness.close()
        if self._opened is not None:
            self._opened.env.close()
            self._opened = self._room = None
        self.directory.release()


def _trust(_: Path) -> None:
    """
    The store was verified before.
    """
