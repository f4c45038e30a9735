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
from pexservice.stores.lmdb.directory import DATA, Directory, set_aside
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.verify import (
    DATABASES,
    blame,
    check_cursor,
    verify_in_child,
)

#: How many revisions, or keys, too many may pile up before they are trimmed.  Each
#: call into LMDB gives up the interpreter lock, so a commit in the thread is the
#: faster the fewer it makes: trim many rows now and then rather than one each time.
SLACK = 256

#: What a map of any size needs, and each transition in the journal.  Bytes.  A row
#: of one transition takes 37 bytes and LMDB's 16, in pages that are half full at
#: worst; 100,000 keys of 255 characters take 130 MB then.
MAP_BASE = 256 << 20
MAP_PER_TRANSITION = 128

#: How much of the disk is taken beyond the pages in use.  Bytes.
RESERVE = 4 << 20


@frozen
class _Open:
    """
    An open environment and its three databases.
    """

    env: lmdb.Environment
    cursor: lmdb._Database
    journal: lmdb._Database
    keys: lmdb._Database


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
        self._opened: _Open | None = None
        self._extent = _Extent(0, 1, 0)
        self._room = 0

    def __repr__(self) -> str:
        return f"<LmdbStore {self.directory.path}>"

    @property
    def _databases(self) -> _Open:
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
                    self._verify(path)
                else:
                    self._make()
                return self._open_environment(path)
            except (lmdb.Error, records.BadRecord, OSError) as error:
                raise blame(path, error) from error
        except BaseException:
            self._close()
            raise

    def _make(self) -> None:
        try:
            self.directory.install(_make)
        except lmdb.Error as error:
            raise StoreUnusable(
                f"the store {self.directory.path} cannot be made: {error}"
            ) from error

    def _open_environment(self, path: Path) -> tuple[int, int]:
        env = lmdb.open(
            str(path),
            # A store from the time of a longer journal needs room to be trimmed.
            map_size=max(self._map_size, 2 * (path / DATA).stat().st_size),
            max_dbs=len(DATABASES),
            create=False,
            mode=0o600,
        )
        try:
            env.reader_check()
            opened = _Open(env, *(env.open_db(name, create=False) for name in DATABASES))
            with env.begin() as txn:
                revision, position = check_cursor(txn, opened.cursor, opened.journal)
                with txn.cursor(opened.journal) as rows:
                    oldest = records.read_revision_key(rows.key()) if rows.first() else 1
                keys = txn.stat(opened.keys)["entries"] // 2
        except BaseException:
            env.close()
            raise
        self._opened, self._extent = opened, _Extent(revision, oldest, keys)
        self._reserve(env)
        return revision, position

    def _reserve(self, env: lmdb.Environment) -> None:
        """
        See that the disk has room for pages that are not in use yet.
        """
        used = _used(env)
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

    def _commit(self, batch: Batch) -> None:
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
        txn.put(key, row, db=databases.journal, append=True)
        txn.put(
            records.CURSOR_KEY,
            records.write_cursor(batch.revision, batch.position),
            db=databases.cursor,
        )
        for name, remembered in batch.keys:
            for record in records.write_remembered(name, remembered):
                txn.put(*record, db=databases.keys)
        oldest, keys = extent.oldest, extent.keys + len(batch.keys)
        if batch.revision - oldest >= self._kept_transitions + SLACK:
            oldest = self._trim_journal(txn, batch.revision - self._kept_transitions)
        if keys > self._kept_keys + SLACK:
            self._trim_keys(txn, keys - self._kept_keys)
            keys = self._kept_keys
        return _Extent(batch.revision, oldest, keys)

    def _trim_journal(self, txn: lmdb.Transaction[bytes], forgotten: int) -> int:
        """
        Remove the rows that hold nothing beyond revision C{forgotten}.

        @return: the first revision of the oldest row that stays.
        """
        with txn.cursor(self._databases.journal) as rows:
            rows.first()
            while True:
                first = records.read_revision_key(rows.key())
                # A row ends where the next begins; the newest always stays.
                if not rows.next():
                    return first
                if records.read_revision_key(rows.key()) > forgotten + 1:
                    return first
                rows.prev()
                # Leaves the cursor on the row after it.
                rows.delete()

    def _trim_keys(self, txn: lmdb.Transaction[bytes], count: int) -> None:
        """
        Remove the C{count} oldest idempotency keys.
        """
        database = self._databases.keys
        with txn.cursor(database) as keys:
            keys.set_range(records.OLDEST_AGE_KEY)
            for _ in range(count):
                name = records.read_aged(*keys.item())
                keys.delete()
                txn.delete(records.name_key(name), db=database)
                # The deletion by name may have moved the page under the cursor.
                keys.set_range(records.OLDEST_AGE_KEY)

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
        databases, newest = self._databases, self._extent.revision
        before = newest + 1 if before is None else min(before, newest + 1)
        forgotten = newest - self._kept_transitions
        found: list[Row] = []
        with self._reading() as txn, txn.cursor(databases.journal) as rows:
            if rows.set_range(records.revision_key(before)):
                more = rows.prev()
            else:
                more = rows.last()
            while more and len(found) < limit:
                for row in reversed(records.read_row(*rows.item())):
                    if forgotten < row.revision < before and len(found) < limit:
                        found.append(row)
                more = rows.prev() and bool(found) and found[-1].revision > forgotten + 1
        return found

    def space(self) -> Space | None:
        """
        See L{IOnDisk.space}.
        """
        disk = self.directory.file_system()
        if self._opened is None or disk is None:
            return None
        env = self._opened.env
        return Space(
            used=_used(env),
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


def _used(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _trust(_: Path) -> None:
    """
    The store was verified before.
    """


def _make(path: Path) -> None:
    """
    Make a store with the cursor at its origin.
    """
    with lmdb.open(str(path), map_size=MAP_BASE, max_dbs=len(DATABASES), mode=0o600) as env:
        cursor, _, _ = (env.open_db(name) for name in DATABASES)
        with env.begin(write=True) as txn:
            txn.put(records.CURSOR_KEY, records.write_cursor(0, 0), db=cursor)
