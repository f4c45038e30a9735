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
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import lmdb
from twisted.internet.defer import Deferred, execute, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.stores.interface import (
    Batch,
    IOnDisk,
    IOwnStore,
    NotTaken,
    Opened,
    Row,
    Snapshot,
    Space,
    StoreBusy,
    StoreIncompatible,
    StoreUnusable,
)
from pexservice.stores.lmdb.databases import (
    MAP_BASE,
    Databases,
    oldest_snapshot,
    open_databases,
    prepare,
)
from pexservice.stores.lmdb.directory import DATA, Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.follower import Follower
from pexservice.stores.lmdb.migrate import format_of, migrate
from pexservice.stores.lmdb.records import BadRecord, KeyRow, Witnessed
from pexservice.stores.lmdb.room import GROWTH, RESERVE, Room
from pexservice.stores.lmdb.transaction import (
    Extent,
    Kept,
    KeyLog,
    read_extent,
    read_history,
    rows_from,
    write_batch,
)
from pexservice.stores.lmdb.verify import (
    DAMAGE,
    READING_ERRORS,
    blame,
    check_cursor,
    require_newest_format,
    verify_in_child,
)
from pexservice.stores.lmdb.witness import Witness
from pexservice.stores.remembered_keys import KEPT_KEYS

T = TypeVar("T")

#: How long a commit trusts that the store is where it was.  Seconds: a check is a system
#: call, and this is as long as many commits of a fast disk take together.
PLACE_INTERVAL = 0.1

#: Bytes of the map for each transition in the journal.  A row of one transition takes
#: 37 bytes and LMDB's 16, in pages that are half full at worst.
MAP_PER_TRANSITION = 128


@implementer(IOwnStore, IOnDisk)
class LmdbStore:
    """
    A store in LMDB, on a disk of this machine.

    @ivar directory: the directory that holds the store.
    """

    def __init__(
        self,
        directory: Directory,
        executor: CommitExecutor,
        *,
        journal: int = 100_000,
        verify: Callable[[Path], object] | None = verify_in_child,
        waiting: Callable[[], object] | None = None,
        rewrite: Callable[[Directory], object] = migrate,
        follow: IReactorTime | None = None,
        kept_keys: int = KEPT_KEYS,
        map_size: int | None = None,
        growth: float = GROWTH,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Make the store in C{directory}, without opening it.

        @param journal: how many transitions the history keeps, 1 or more.
        @param verify: reads the whole store before this process maps it, and may return a
            C{Deferred}; C{None} for a store that was verified a moment ago.
        @param waiting: called before a standby waits; by default a store in use is refused.
        @param rewrite: rewrites a store of format 1, and may return a C{Deferred}.
        @param follow: the reactor by whose time a standby follows the keys while it waits;
            without one it does not follow them.
        @param map_size: bytes; by default enough for C{journal}.
        @param growth: the part of the disk that the map may take beyond that.
        """
        self.directory = directory
        self._executor = executor
        self._kept = Kept(journal, kept_keys)
        self._verify = verify
        self._waiting = waiting
        self._rewrite = rewrite
        self._follow = follow
        self._map_size = map_size or MAP_BASE + journal * MAP_PER_TRANSITION
        self._growth = growth
        self._monotonic = monotonic
        self._check_at = monotonic()
        self._opened: Databases | None = None
        self._extent = Extent(0, 1, 1, KeyRow(1, b"", b""))
        self._keys = KeyLog(kept_keys)
        self._room: Room | None = None
        self._witness = Witness(directory.path)

    def __repr__(self) -> str:
        return f"<LmdbStore {self.directory.path}>"

    @property
    def _databases(self) -> Databases:
        if self._opened is None:
            raise StoreUnusable(f"the store {self.directory.path} is not open")
        return self._opened

    def open(self) -> Deferred[Opened]:
        """
        Own, verify and read the store; see L{IStore.open}.

        This blocks, except during a wait for another owner, and for a verification or a
        rewriting that returns a C{Deferred}.
        """
        return Deferred.fromCoroutine(self._open()).addErrback(self._abandon)

    def _own(self) -> Deferred[None]:
        if self._waiting is None:
            return execute(self.directory.own)
        try:
            self.directory.own()
        except StoreBusy:
            self._waiting()
            # A worker that takes over has no time to read it all; the last owner served it.
            self._verify = None
            return self._await_ownership()
        except StoreUnusable:
            return fail()
        return succeed(None)

    def _await_ownership(self) -> Deferred[None]:
        owned = self._executor.wait(self.directory.await_ownership)
        if self._follow is not None:
            follower = Follower(self.directory.path, self._keys, self._follow)
            follower.start()

            def stop_following(result: T) -> T:
                follower.stop()
                return result

            owned.addBoth(stop_following)
        return owned

    async def _open(self) -> Opened:
        await self._own()
        try:
            return await self._open_owned()
        except StoreIncompatible:
            if format_of(self.directory.path) != 1:
                raise
            await maybeDeferred(self._rewrite, self.directory)
            return await self._open_owned()

    def _abandon(self, failure: Failure) -> Failure:
        self._close()
        return failure

    async def _open_owned(self) -> Opened:
        path = self.directory.path
        try:
            if prepare(self.directory) and self._verify is not None:
                await maybeDeferred(self._verify, path)
            return self._open_environment(path)
        except READING_ERRORS as error:
            raise blame(path, error) from error

    def _open_environment(self, path: Path) -> Opened:
        size, map_size = (path / DATA).stat().st_size, self._map_size
        if size > map_size:
            # The file has grown, or the journal was longer; it needs some room to go on.
            map_size = size + RESERVE
        opened = open_databases(path, map_size)
        try:
            opened.env.reader_check()
            with opened.env.begin() as txn:
                revision, position = check_cursor(txn, opened.cursor, opened.journal)
                require_newest_format(txn, opened.cursor)
                extent = read_extent(txn, opened, revision)
                self._read_keys(txn, opened.keys)
        except BaseException:
            opened.env.close()
            raise
        self._opened, self._extent = opened, extent
        self.directory.claim_file()
        self._witness = Witness(path)
        self._witness.open(revision, verified=self._verify is not None)
        self._room = Room(
            self.directory, opened.env, growth=self._growth, monotonic=self._monotonic
        )
        self._room.reserve()
        return Opened(revision, position, self._keys.remembered_keys)

    def _read_keys(self, txn: lmdb.Transaction[bytes], keys: lmdb._Database) -> None:
        """
        Read the rows of keys that this process has not read as a standby.
        """
        try:
            self._keys.read(rows_from(txn, keys, self._keys.newest.first))
        except BadRecord:
            # The standby may have read another store, whose place this one has taken.
            self._keys.forget()
            self._keys.read(rows_from(txn, keys, 0))

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Take the whole batch in one durable transaction, or nothing; see L{IStore.commit}.
        """
        room = self._room
        if room is None:
            return fail(StoreUnusable(f"the store {self.directory.path} is not open"))
        needed = room.needed(batch)
        try:
            # Done here, where no transaction is open.
            room.stretch_map(needed)
        except lmdb.Error:
            return fail()
        return self._executor.run(lambda: self._commit(batch, room, needed))

    def _commit(self, batch: Batch, room: Room, needed: int) -> None:
        if (misplacement := self._misplacement()) is not None:
            raise misplacement
        room.claim(needed)
        try:
            self._transact(batch)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _misplacement(self) -> NotTaken | None:
        """
        Return why the next worker would not find what is committed, checked now and then.
        """
        now = self._monotonic()
        if now >= self._check_at:
            problem = self.directory.misplacement()
            if problem is not None:
                return NotTaken(problem)
            self._check_at = now + PLACE_INTERVAL
        return None

    def _transact(self, batch: Batch) -> None:
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
            # LMDB found this while it looked for pages, before it wrote any.
            self._forget_dead_readers()
            raise self._full() from error
        self._witness.write(Witnessed(extent.revision))
        trimmed = extent.oldest_row != self._extent.oldest_row
        self._extent = extent
        if trimmed:
            self._forget_dead_readers()

    def _forget_dead_readers(self) -> None:
        """
        Clear dead processes from LMDB's table of readers.

        No page that a reader might see is used again, and a killed backup leaves a reader.
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

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        Return durable transitions, newest first, read inline; see L{IStore.history}.
        """
        newest = self._extent.revision
        before = newest + 1 if before is None else min(before, newest + 1)
        forgotten = newest - self._kept.transitions

        def read() -> list[Row]:
            with self._databases.env.begin() as txn:
                return read_history(
                    txn,
                    self._databases.journal,
                    before=before,
                    forgotten=forgotten,
                    limit=limit,
                )

        return execute(self._reading, read)

    def _reading(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except lmdb.PanicError as error:
            # A commit has failed in the thread and is about to say so.
            raise NotTaken("the store failed") from error
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreUnusable:
        """
        Return the error to raise for damage that is found while the store is served.

        The store will be read whole before it is served again.
        """
        self._witness.write(Witnessed(self._extent.revision, sound=False))
        return blame(self.directory.path, error)

    def space(self) -> Space | None:
        """
        Return how much room there is for the store; see L{IOnDisk.space}.
        """
        return None if self._room is None else self._room.space()

    def shortage(self) -> NotTaken | None:
        """
        Return why no batch would be taken now, if so; see L{IOwnStore.shortage}.
        """
        if self._room is None:
            return None
        return self._misplacement() or self._room.shortage()

    def oldest_snapshot(self) -> Snapshot | None:
        """
        Return the oldest state that another process reads; see L{IOnDisk.oldest_snapshot}.
        """
        return None if self._opened is None else oldest_snapshot(self._opened.env)

    def close(self) -> Deferred[None]:
        """
        End the thread, make the witness durable and release the store; see L{IStore.close}.
        """
        return execute(self._close)

    def _close(self) -> None:
        self._executor.stop()
        self._witness.close()
        if self._opened is not None:
            self._opened.env.close()
            self._opened = self._room = None
        self.directory.release()
