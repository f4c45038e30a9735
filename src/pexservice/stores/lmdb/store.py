"""
The store on one machine: LMDB, one durable transaction a batch.

A commit flushes the data pages, then the meta page that makes them valid, so a
power cut at any moment leaves the state before it or after it.  LMDB's own flags
that trade this away (C{writemap}, C{metasync=False}, C{sync=False}) are not used.

Retention is part of the commit: what is no longer kept goes in the transaction that
adds, so its pages are used again and the file stops growing, but for a page more
whenever a batch touches more of them than any did before.  For these there is room
set aside on the disk, so a disk that others have filled does not stop the service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
from attrs import frozen
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
from pexservice.stores.lmdb.directory import DATA, Directory, set_aside
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.history import read_history
from pexservice.stores.lmdb.retention import MOST_TRIMMED, SLACK, trim_journal, trim_keys
from pexservice.stores.lmdb.verify import (
    READING_ERRORS,
    blame,
    check_cursor,
    verify_in_child,
)

#: Bytes of the map for each transition in the journal.  A row of one transition takes
#: 37 bytes and LMDB's 16, in pages that are half full at worst.
MAP_PER_TRANSITION = 128

#: How long a commit trusts that the store is where it was.  Seconds: to look is a system
#: call, and as long as many commits of a fast disk take together.
PLACE_INTERVAL = 0.1

#: How much of the disk is taken beyond the pages in use.  Bytes.
RESERVE = 4 << 20


@frozen
class _Extent:
    """
    What a commit must know to see whether there is something to trim, without
    asking LMDB.

    @ivar revision: the newest one.
    @ivar oldest: the first revision of the oldest journal row.
    @ivar keys: how many idempotency keys there are.
    """

    revision: int
    oldest: int
    keys: int


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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param journal: how many transitions the history keeps, 1 or more.
        @param verify: reads the whole store before this process maps it.
        @param waiting: called when another process has the store, to wait for it
            then; by default it is not waited for.
        @param map_size: bytes; by default enough for C{journal}.
        """
        self.directory = directory
        self._executor = executor
        self._kept_transitions = journal
        self._kept_keys = kept_keys
        self._verify = verify
        self._waiting = waiting
        self._map_size = map_size or MAP_BASE + journal * MAP_PER_TRANSITION
        self._monotonic = monotonic
        self._check_place_at = monotonic()
        self._opened: Databases | None = None
        self._extent = _Extent(0, 1, 0)
        self._room = 0

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
        # A store from the time of a longer journal needs room to be trimmed.
        map_size = max(self._map_size, 2 * (path / DATA).stat().st_size)
        opened = open_databases(path, map_size)
        try:
            opened.env.reader_check()
            with opened.env.begin() as txn:
                revision, position = check_cursor(txn, opened.cursor, opened.journal)
                with txn.cursor(opened.journal) as rows:
                    oldest = records.read_revision_key(rows.key()) if rows.first() else 1
                keys = txn.stat(opened.keys)["entries"] // 2
        except BaseException:
            opened.env.close()
            raise
        self._opened, self._extent = opened, _Extent(revision, oldest, keys)
        if not self.directory.has_its_name():
            raise self._replaced()
        self._reserve(opened.env)
        return revision, position

    def _reserve(self, env: lmdb.Environment) -> None:
        """
        See that the disk has room for pages that are not in use yet.
        """
        used = used_bytes(env)
        if self._room < used + RESERVE // 2:
            # Where there is none, the store goes on for as long as it can.
            with suppress(OSError):
                set_aside(self.directory.path / DATA, used + RESERVE)
                self._room = used + RESERVE

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        See L{IStore.commit}.
        """
        return self._executor.run(lambda: self._commit(batch))

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

    def _commit(self, batch: Batch) -> None:
        self._check_place()
        # Not "with": in lmdb 1.4 leaving the block after a commit raises.
        txn = self._databases.env.begin(write=True)
        try:
            extent = self._write(txn, batch)
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
        trimmed = extent.oldest != self._extent.oldest
        self._extent = extent
        if trimmed:
            self._forget_dead_readers()
            self._reserve(self._databases.env)

    def _forget_dead_readers(self) -> None:
        """
        No page is used again that a reader might see, and a process that was killed
        while it made a backup has left one.
        """
        self._databases.env.reader_check()

    def _full(self) -> NotTaken:
        return NotTaken(f"the store {self.directory.path} is full")

    def _write(self, txn: lmdb.Transaction[bytes], batch: Batch) -> _Extent:
        databases, extent = self._databases, self._extent
        key, row = records.write_row(batch)
        if not txn.put(key, row, db=databases.journal, append=True):
            raise records.BadRecord(
                f"the journal has rows from revision {batch.first_revision} on already"
            )
        cursor = records.write_cursor(batch.revision, batch.position)
        txn.put(records.CURSOR_KEY, cursor, db=databases.cursor)
        for name, remembered in batch.keys:
            for record in records.write_remembered(name, remembered):
                if not txn.put(*record, db=databases.keys, overwrite=False):
                    raise records.BadRecord(f"there is a record {record[0]!r} already")
        oldest, keys = extent.oldest, extent.keys + len(batch.keys)
        if batch.revision - oldest >= self._kept_transitions + SLACK:
            forgotten = batch.revision - self._kept_transitions
            oldest = trim_journal(txn, databases.journal, forgotten)
        if keys > self._kept_keys + SLACK:
            # More than came, or there would be ever more of them.
            count = min(keys - self._kept_keys, MOST_TRIMMED + len(batch.keys))
            trim_keys(txn, databases.keys, count)
            keys -= count
        return _Extent(batch.revision, oldest, keys)

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
                forgotten=newest - self._kept_transitions,
                limit=limit,
            )

    def space(self) -> Space | None:
        """
        See L{IOnDisk.space}.
        """
        disk = self.directory.file_system()
        if self._opened is None or disk is None:
            return None
        env = self._opened.env
        return Space(
            used=used_bytes(env),
            limit=env.info()["map_size"],
            free=disk.f_bavail * disk.f_frsize,
            size=disk.f_blocks * disk.f_frsize,
        )

    def close(self) -> Deferred[None]:
        """
        See L{IStore.close}.
        """
        return execute(self._close)

    def _close(self) -> None:
        self._executor.stop()
        if self._opened is not None:
            self._opened.env.close()
            self._opened = None
        self.directory.release()


def _trust(_: Path) -> None:
    """
    The store was verified before.
    """
