"""
The store on one machine: LMDB, with one durable transaction for each batch.

A commit flushes the data pages, and then the meta page that makes them valid.  So a power
cut at any moment leaves the state before the commit or the state after it.  This module
does not use the flags of LMDB that make commits faster.  With C{sync=False} or
C{metasync=False}, a power cut could undo a commit.  With C{writemap}, a bug of this process
could write into the file.

A commit also removes the oldest rows of the journal and of the keys, if they need not be
kept.  Later commits reuse the pages of the removed rows.  After the first removal, the file
grows in two cases only: a batch is larger than all earlier ones, or another process, such
as a backup, reads an old state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
from attrs import define
from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from pexservice.core.cursor import Cursor
from pexservice.stores.errors import (
    OutcomeUnknown,
    Refusal,
    StoreBusy,
    StoreError,
    StoreUnavailable,
)
from pexservice.stores.factory_interface import StoreOptions
from pexservice.stores.interface import (
    Batch,
    HistoryEntry,
    IExclusiveStore,
    OldStateReader,
    Space,
)
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import (
    DAMAGE_ERRORS,
    LOW_LEVEL_ERRORS,
    MIN_MAP_BYTES,
    Databases,
    as_store_error,
    make_store,
    oldest_reader,
    open_for_writing,
)
from pexservice.stores.lmdb.directory import DATA_FILE, Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.follower import Follower
from pexservice.stores.lmdb.migrate import migrate
from pexservice.stores.lmdb.records import BadRecord, WitnessRecord
from pexservice.stores.lmdb.reserve import RESERVE_BYTES, Reserve
from pexservice.stores.lmdb.transaction import (
    KeyReader,
    Retention,
    StoreBounds,
    read_bounds,
    read_cursor,
    read_format_at,
    read_history,
    rows_from,
    write_batch,
)
from pexservice.stores.lmdb.verify import verify_in_child
from pexservice.stores.lmdb.witness import Witness
from pexservice.stores.remembered_keys import KEPT_KEYS, RememberedKeys
from pexservice.stores.verification import Verification

#: The time from one successful check that the store was not moved to the next.  The check
#: also warns if the disk is nearly full.  A check before every commit would slow down the
#: commits, because it makes system calls.
PATH_CHECK_INTERVAL_SECONDS = 0.1

#: LMDB's map has this many bytes for each transition that the journal keeps.  A row of one
#: transition takes about 40 bytes in a full page, and about 80 in a page that is half full.
MAP_BYTES_PER_TRANSITION = 128


@define(eq=False)
class OpenStore:
    """
    A store that LMDB has open.  It commits batches, and reads the history.
    """

    _directory: Directory
    databases: Databases
    reserve: Reserve
    # A small file with the newest revision, and a mark if damage was found.
    _witness: Witness
    _bounds: StoreBounds
    _retention: Retention
    _monotonic: Callable[[], float]
    # The first call of L{check_location} checks the path.
    _next_path_check: float = 0.0

    def make_map_space(self, batch: Batch) -> int:
        """
        Enlarge LMDB's map if it could be too small for the commit of C{batch}.

        Call this while no transaction is open, so that LMDB can move the map.

        @return: the most bytes that the commit may add to the file, for L{commit}.
        @raise StoreError: the map cannot be enlarged.
        """
        needed = self.reserve.needed_bytes(batch)
        try:
            self.reserve.grow_map(needed)
        except (lmdb.Error, OSError) as error:
            raise self._as_store_error(error) from error
        return needed

    def commit(self, batch: Batch, needed: int) -> None:
        """
        Write C{batch}, which may add C{needed} bytes to the file.
        """
        try:
            self.check_location()
            self.reserve.ensure_space(needed)
            txn, bounds = self._write_uncommitted(batch)
        except LOW_LEVEL_ERRORS as error:
            # Without a commit, the batch is not stored.
            raise self._as_store_error(error) from error
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            # LMDB raises this before it writes any page.
            raise self._full_map_refusal() from error
        except DAMAGE_ERRORS as error:
            # LMDB finds damage while it updates its list of free pages, before it writes
            # the pages of the batch.
            raise self._as_store_error(error) from error
        except Exception as error:
            # LMDB may have written the meta page.
            raise OutcomeUnknown(str(error)) from error
        self._witness.write(WitnessRecord(bounds.revision))
        self._bounds = bounds

    def check_location(self) -> None:
        """
        Check that the configured path still leads to this store.

        While the path leads to this store, it is checked every
        L{PATH_CHECK_INTERVAL_SECONDS}, together with the free space of the disk.  If the
        path leads elsewhere, every call checks it, so the service continues as soon as the
        store is back.

        @raise Refusal: the path leads elsewhere.
        """
        now = self._monotonic()
        if now >= self._next_path_check:
            self._directory.location.check()
            self._next_path_check = now + PATH_CHECK_INTERVAL_SECONDS
            self.reserve.warn_if_nearly_full()

    def _write_uncommitted(
        self, batch: Batch
    ) -> tuple[lmdb.Transaction[bytes], StoreBounds]:
        """
        Begin a transaction, and write C{batch} in it.  The caller commits it.

        @return: the transaction, and the bounds of the store after its commit.
        """
        # A "with" block cannot be used: in lmdb 1.4, the end of the block raises an error
        # if the transaction was committed inside the block.
        txn = self.databases.env.begin(write=True)
        try:
            bounds = write_batch(txn, self.databases, batch, self._bounds, self._retention)
            if bounds.oldest_revision != self._bounds.oldest_revision:
                # The batch removes rows.  Let LMDB forget readers that were killed, such as
                # a backup.  Otherwise LMDB would never reuse the pages of these rows.
                self.databases.env.reader_check()
        except (lmdb.MapFullError, lmdb.TxnFullError) as error:
            txn.abort()
            raise self._full_map_refusal() from error
        except BaseException:
            txn.abort()
            raise
        return txn, bounds

    def _full_map_refusal(self) -> Refusal:
        """
        Return the refusal of a batch for which LMDB's map has no space.

        The refusal names the process that reads the oldest state.  LMDB also forgets
        readers that were killed, so that the next batch can reuse the pages that they kept.
        """
        self.databases.env.reader_check()
        reason = f"the store {self._directory.configured_path} is full"
        if (reader := oldest_reader(self.databases.env)) is not None:
            reason += (
                f", and process {reader.pid} has been reading it for"
                f" {reader.commits_behind} commits"
            )
        return Refusal(reason)

    def history(self, before: int, limit: int) -> list[HistoryEntry]:
        newest = self._bounds.revision
        try:
            with self.databases.env.begin() as txn:
                return read_history(
                    txn,
                    self.databases.journal,
                    before=min(before, newest + 1),
                    first_kept=newest + 1 - self._retention.transitions,
                    limit=limit,
                )
        except lmdb.PanicError as error:
            # A commit has just failed in the other thread.  The committer will get the
            # error of that commit, and will end this process.
            raise Refusal("the store failed") from error
        except DAMAGE_ERRORS as error:
            raise self._as_store_error(error) from error
        except lmdb.Error as error:
            raise Refusal(f"the history cannot be read: {error}") from error

    def _as_store_error(self, error: Exception) -> StoreError:
        """
        Return the L{StoreError} for C{error}.  If C{error} shows damage, record it.

        Call this only if nothing was written: a L{StoreError} says that nothing is stored.
        """
        if isinstance(error, DAMAGE_ERRORS):
            self._witness.write(WitnessRecord(self._bounds.revision, sound=False))
        return as_store_error(self._directory.configured_path, error)

    def close(self) -> None:
        self._witness.close()
        self.databases.env.close()


@implementer(IExclusiveStore)
class LmdbStore:
    """
    A store in a local directory.  Only one process at a time can lock it and write to it.
    """

    def __init__(
        self,
        directory: Directory,
        executor: CommitExecutor,
        *,
        journal: int = 100_000,
        verification: Verification = Verification(),  # noqa: B008 it has no state
        verify: Callable[[Path, Progress], object] = verify_in_child,
        run_long: Callable[[Callable[[], object]], Deferred[object]] = execute,
        progress: Progress = lambda _: None,
        kept_keys: int = KEPT_KEYS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Prepare a store, without opening it.

        @param journal: how many transitions the history keeps, 1 or more.
        @param verification: says whether the store must be verified before LMDB opens it.
        @param verify: verifies the whole store.
        @param run_long: runs a call that may take minutes: C{verify}, or a migration from
            format 1.  In a worker, C{run_long} starts a new thread for the call.
        @param progress: called with the progress of such a call, in percent.
        """
        self.directory = directory
        self._executor = executor
        self._retention = Retention(journal, kept_keys)
        self._verification = verification
        self._verify = verify
        self._run_long = run_long
        self._progress = progress
        self._map_size = MIN_MAP_BYTES + journal * MAP_BYTES_PER_TRANSITION
        self._monotonic = monotonic
        self._key_reader = KeyReader(kept_keys)
        self._open_store: OpenStore | None = None

    @property
    def remembered_keys(self) -> RememberedKeys:
        return self._key_reader.remembered_keys

    def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        return Deferred.fromCoroutine(self._open(on_standby))

    async def _open(self, on_standby: Callable[[], object] | None) -> Cursor:
        """
        Lock the directory, prepare the files in it, and let LMDB open them.
        """
        try:
            must_verify = await self._lock_or_wait(on_standby)
            is_sound = await self._prepare_files(must_verify=must_verify)
            return self._open_files(is_sound=is_sound)
        except Exception as error:
            self._close()
            if isinstance(error, LOW_LEVEL_ERRORS):
                raise as_store_error(self.directory.configured_path, error) from error
            raise

    async def _lock_or_wait(self, on_standby: Callable[[], object] | None) -> bool:
        """
        Lock the directory.  If another process has locked it, wait as a standby.

        @return: whether this process must verify the store.
        """
        try:
            self.directory.lock()
        except StoreBusy:
            if on_standby is None:
                raise
        else:
            return self._verification.is_due
        on_standby()
        await self._wait_for_lock()
        if not self._verification.is_completed:
            # The process that had the lock ended before its verification was completed.
            # This error makes L{_open} release the lock.  Then the worker opens the store
            # again, finds the lock free, and verifies the store.  Until then, clients get
            # this message.
            raise StoreUnavailable(
                f"the store {self.directory.configured_path} is not verified yet"
            )
        # A standby takes over without a verification, so that clients need not wait.
        return False

    async def _wait_for_lock(self) -> None:
        """
        Wait for the lock, and read the keys that the active worker commits meanwhile.
        """
        reactor = IReactorTime(self._executor.reactor)
        follower = Follower(self.directory.real_path, self._key_reader, reactor)
        follower.start()
        try:
            await self._executor.run_in_new_thread(partial(self.directory.lock, wait=True))
        finally:
            follower.stop()

    async def _prepare_files(self, *, must_verify: bool) -> bool:
        """
        Make a store if there is none; otherwise verify and migrate the store.

        It is verified if C{must_verify} is true, and then migrated if it has format 1.

        @return: whether the store was made or verified now.
        """
        directory = self.directory
        is_new = directory.find_or_create_store(make_store)
        if must_verify and not is_new:
            # If this process ends before it has opened the store, a standby must not take
            # over without a verification.
            self._verification.begin()
            await self._run_long(partial(self._verify, directory.real_path, self._progress))
        if read_format_at(directory.real_path) == 1:
            await self._run_long(partial(migrate, directory, self._progress))
        return must_verify or is_new

    def _open_files(self, *, is_sound: bool) -> Cursor:
        """
        Open the store with LMDB, read it, claim it for the service, and open the witness.
        """
        path, clock = self.directory.real_path, self._monotonic
        size, map_size = (path / DATA_FILE).stat().st_size, self._map_size
        if size > map_size:
            # An earlier process has enlarged the map, or had a larger C{journal}.  The map
            # must hold the whole file, and the pages that the next commits add.
            map_size = size + RESERVE_BYTES
        databases = open_for_writing(path, map_size)
        try:
            databases.env.reader_check()
            with databases.env.begin() as txn:
                cursor = read_cursor(txn, databases).cursor
                bounds = read_bounds(txn, databases, cursor.revision)
                self._read_keys(txn, databases.keys)
            self.directory.location.claim_store()
            reserve = Reserve(self.directory, databases.env, clock)
            # This raises L{StoreDamaged} if the witness is newer than the store, or if it
            # records damage and the store was not verified now.
            witness = Witness(path, cursor.revision, is_sound=is_sound)
            self._open_store = OpenStore(
                self.directory, databases, reserve, witness, bounds, self._retention, clock
            )
        except BaseException:
            databases.env.close()
            raise
        reserve.allocate_first()
        if is_sound:
            self._verification.complete()
        return cursor

    def _read_keys(self, txn: lmdb.Transaction[bytes], keys: lmdb._Database) -> None:
        """
        Read the rows of keys that this process has not read yet.

        A process that was a standby has read nearly all rows already.
        """
        try:
            self._key_reader.read(
                rows_from(txn, keys, self._key_reader.newest_row.first_ordinal)
            )
        except BadRecord:
            # An operator may have replaced the store while this process was a standby.
            self._key_reader.forget()
            self._key_reader.read(rows_from(txn, keys, 0))

    def _get_open_store(self) -> OpenStore:
        if self._open_store is None:
            raise StoreError(f"the store {self.directory.configured_path} is not open")
        return self._open_store

    def commit(self, batch: Batch) -> Deferred[None]:
        try:
            store = self._get_open_store()
            needed = store.make_map_space(batch)
        except StoreError as error:
            return fail(error)
        return self._executor.run(lambda: store.commit(batch, needed))

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        return execute(lambda: self._get_open_store().history(before, limit))

    def space(self) -> Space | None:
        store = self._open_store
        return None if store is None else store.reserve.space()

    def commit_refusal(self) -> Refusal | None:
        try:
            if self._open_store is not None:
                self._open_store.check_location()
                self._open_store.reserve.check_shortage()
        except Refusal as refusal:
            return refusal
        return None

    def oldest_reader(self) -> OldStateReader | None:
        store = self._open_store
        return None if store is None else oldest_reader(store.databases.env)

    def close(self) -> Deferred[None]:
        return execute(self._close)

    def _close(self) -> None:
        self._executor.stop()
        if self._open_store is not None:
            self._open_store.close()
            self._open_store = None
        self.directory.unlock()


def store_for_worker(path: str, options: StoreOptions) -> LmdbStore:
    reactor, executor = options.reactor, CommitExecutor(options.reactor)

    def progress(percent: int) -> None:
        # This function is called in the thread that waits for the child process.
        reactor.callFromThread(options.progress, percent)

    return LmdbStore(
        Directory(path, create=options.create, claim=options.claim),
        executor,
        journal=options.journal,
        verification=options.verification,
        run_long=executor.run_in_new_thread,
        progress=progress,
    )
