"""
The store on one machine: how a worker opens an LMDB store, and commits to it.

L{LmdbStore} locks a directory, and makes, verifies or migrates the store in it.  Then LMDB
opens the store; see L{OpenedStore}.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from pexservice.core.cursor import Cursor
from pexservice.stores.errors import Refusal, StoreBusy, StoreError, StoreUnavailable
from pexservice.stores.interface import (
    Batch,
    HistoryEntry,
    IExclusiveStore,
    OldStateReader,
    Space,
)
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.databases import (
    LOW_LEVEL_ERRORS,
    MIN_MAP_BYTES,
    Databases,
    as_store_error,
    make_store,
    oldest_reader,
)
from pexservice.stores.lmdb.directory import DATA_FILE, Directory
from pexservice.stores.lmdb.executor import CommitExecutor
from pexservice.stores.lmdb.follower import Follower
from pexservice.stores.lmdb.migrate import migrate
from pexservice.stores.lmdb.opened_store import OpenedStore
from pexservice.stores.lmdb.records import BadRecord
from pexservice.stores.lmdb.transaction import (
    KeyReader,
    Retention,
    read_format_at,
    rows_from,
)
from pexservice.stores.lmdb.verify import verify_in_child
from pexservice.stores.remembered_keys import KEPT_KEYS, RememberedKeys
from pexservice.stores.verification import Verification

#: LMDB's map has this many bytes for each transition that the journal keeps.  A row of one
#: transition takes about 40 bytes in a full page, and about 80 in a page that is half full.
MAP_BYTES_PER_TRANSITION = 128


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
        kept_transitions: int = 100_000,
        verification: Verification = Verification(),  # noqa: B008 it has no state
        verify: Callable[[Path, Progress], object] = verify_in_child,
        progress: Progress = lambda _: None,
        kept_keys: int = KEPT_KEYS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Prepare a store, without opening it.

        @param kept_transitions: how many transitions the history keeps, 1 or more.
        @param verification: knows whether the store must be verified before it is opened.
        @param verify: verifies the whole store.
        @param progress: called with the progress of the verification, or of the migration
            from format 1, in percent.
        """
        self.directory = directory
        self._executor = executor
        self._retention = Retention(kept_transitions, kept_keys)
        self._verification = verification
        self._verify = verify
        # The thread that waits for the child process reports the progress.
        self._progress = lambda percent: executor.reactor.callFromThread(progress, percent)
        self._map_size = MIN_MAP_BYTES + kept_transitions * MAP_BYTES_PER_TRANSITION
        self._monotonic = monotonic
        self._key_reader = KeyReader(kept_keys)
        self._opened: OpenedStore | None = None

    @property
    def remembered_keys(self) -> RememberedKeys:
        return self._key_reader.remembered_keys

    def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        return Deferred.fromCoroutine(self._open(on_standby))

    async def _open(self, on_standby: Callable[[], object] | None) -> Cursor:
        try:
            was_standby = await self._lock_or_wait(on_standby)
            # A standby takes over without a verification, so that clients need not wait.
            must_verify = not was_standby and self._verification.is_due
            was_verified = await self._prepare_files(must_verify=must_verify)
            return self._open_files(was_verified=was_verified)
        except Exception as error:
            self._close()
            if isinstance(error, LOW_LEVEL_ERRORS):
                raise as_store_error(self.directory.configured_path, error) from error
            raise

    async def _lock_or_wait(self, on_standby: Callable[[], object] | None) -> bool:
        """
        Lock the directory.  If another process has locked it, wait as a standby.

        @return: whether this process was a standby.
        """
        try:
            self.directory.lock()
        except StoreBusy:
            if on_standby is None:
                raise
            on_standby()
            await self._wait_for_lock()
            return True
        return False

    async def _wait_for_lock(self) -> None:
        """
        Wait for the lock, and read the keys that the active worker commits meanwhile.

        @raise StoreUnavailable: the process that had the lock ended before it completed its
            verification.
        """
        reactor = IReactorTime(self._executor.reactor)
        data_file = self.directory.real_path / DATA_FILE
        follower = Follower(data_file, self._key_reader, reactor)
        follower.start()
        try:
            await self._executor.run_in_new_thread(partial(self.directory.lock, wait=True))
        finally:
            follower.stop()
        if not self._verification.is_completed:
            # After this error, L{_open} releases the lock, and clients get this message.
            # The worker calls C{open} again.  If that call finds the lock free, it verifies
            # the store.
            raise StoreUnavailable(
                f"the store {self.directory.configured_path} is not verified yet"
            )

    async def _prepare_files(self, *, must_verify: bool) -> bool:
        """
        Make a store if there is none, or prepare the store that is there.

        If C{must_verify} is true, the store is verified.  If it has format 1, verified or
        not, it is migrated.

        @return: whether the store was made or verified now.
        """
        directory = self.directory
        is_new = directory.find_or_create_store(make_store)
        if must_verify and not is_new:
            # If this process ends before it has opened the store, a standby must not take
            # over without a verification.
            self._verification.begin()
            await self._executor.run_in_new_thread(
                partial(self._verify, directory.real_path, self._progress)
            )
        if read_format_at(directory.real_path) == 1:
            await self._executor.run_in_new_thread(
                partial(migrate, directory, self._progress)
            )
        return must_verify or is_new

    def _open_files(self, *, was_verified: bool) -> Cursor:
        self._opened = OpenedStore(
            self.directory,
            self._retention,
            map_size=self._map_size,
            was_verified=was_verified,
            monotonic=self._monotonic,
        )
        try:
            self._read_keys(self._opened.databases)
        except BadRecord:
            # An operator may have replaced the store while this process was a standby.
            self._key_reader.forget()
            self._read_keys(self._opened.databases)
        if was_verified:
            self._verification.complete()
        return self._opened.cursor

    def _read_keys(self, databases: Databases) -> None:
        """
        Read the rows of keys that this process has not read yet.

        A process that was a standby has read nearly all rows already.
        """
        first_ordinal = self._key_reader.newest_row.first_ordinal
        with databases.env.begin() as txn:
            self._key_reader.read(rows_from(txn, databases.keys, first_ordinal))

    def _get_opened(self) -> OpenedStore:
        if self._opened is None:
            raise StoreError(f"the store {self.directory.configured_path} is not open")
        return self._opened

    def commit(self, batch: Batch) -> Deferred[None]:
        try:
            opened = self._get_opened()
            max_growth = opened.prepare(batch)
        except LOW_LEVEL_ERRORS as error:
            return fail(as_store_error(self.directory.configured_path, error))
        except StoreError as error:
            return fail(error)
        return self._executor.run(lambda: opened.commit(batch, max_growth))

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        return execute(lambda: self._get_opened().history(before, limit))

    def space(self) -> Space | None:
        return None if self._opened is None else self._opened.reserve.space()

    def commit_refusal(self) -> Refusal | None:
        try:
            if self._opened is not None:
                self._opened.check_location()
                self._opened.reserve.check_shortage()
        except Refusal as refusal:
            return refusal
        return None

    def oldest_reader(self) -> OldStateReader | None:
        opened = self._opened
        return None if opened is None else oldest_reader(opened.databases.env)

    def close(self) -> Deferred[None]:
        return execute(self._close)

    def _close(self) -> None:
        self._executor.stop()
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self.directory.unlock()
