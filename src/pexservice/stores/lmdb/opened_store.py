"""
A store that LMDB has open: its commits, and the reads of its history.

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

import lmdb

from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreError
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.lmdb.databases import (
    DAMAGE_ERRORS,
    LOW_LEVEL_ERRORS,
    as_store_error,
    oldest_reader,
    open_for_writing,
)
from pexservice.stores.lmdb.directory import DATA_FILE, Directory
from pexservice.stores.lmdb.records import WitnessRecord
from pexservice.stores.lmdb.reserve import RESERVE_BYTES, Reserve
from pexservice.stores.lmdb.transaction import (
    Retention,
    StoreBounds,
    read_bounds,
    read_cursor,
    read_history,
    write_batch,
)
from pexservice.stores.lmdb.witness import Witness

#: The time from one successful check that the store was not moved to the next.  The check
#: also warns if the disk is nearly full.  A check before every commit would slow down the
#: commits, because it makes system calls.
PATH_CHECK_INTERVAL_SECONDS = 0.1


class OpenedStore:
    """
    A store that LMDB has open.  It commits batches, and reads the history.

    @ivar cursor: the cursor of the store when it was opened.
    """

    def __init__(
        self,
        directory: Directory,
        retention: Retention,
        *,
        map_size: int,
        was_verified: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Open the store in the locked C{directory} with LMDB, and claim it for the service.

        @param map_size: the size of LMDB's map, in bytes, if the file is not larger.
        @param was_verified: whether this process has made the store, or verified all of it.
        @raise StoreDamaged: the witness is newer than the store; or it records damage, and
            C{was_verified} is false.
        @raise StoreError: the store cannot be claimed.  This may also raise any of the
            L{LOW_LEVEL_ERRORS}.
        """
        self._directory = directory
        self._retention = retention
        self._monotonic = monotonic
        # So the first call of L{check_location} checks the path.
        self._next_path_check = 0.0
        path = directory.real_path
        size = (path / DATA_FILE).stat().st_size
        if size > map_size:
            # An earlier process has enlarged the map, or kept more transitions.  The map
            # must hold the whole file, and the pages that the next commits add.
            map_size = size + RESERVE_BYTES
        self.databases = open_for_writing(path, map_size)
        env = self.databases.env
        try:
            env.reader_check()
            with env.begin() as txn:
                self.cursor = read_cursor(txn, self.databases).cursor
                self._bounds = read_bounds(txn, self.databases, self.cursor.revision)
            directory.location.claim_store()
            self.reserve = Reserve(directory, env, monotonic)
            self._witness = Witness(path, self.cursor.revision, was_verified=was_verified)
        except BaseException:
            env.close()
            raise
        self.reserve.allocate_first()

    def prepare(self, batch: Batch) -> int:
        """
        Enlarge the map if C{batch} may need it.

        Call this in the thread that calls L{history}, because LMDB must not move its map
        during a read.

        @return: how many bytes C{batch} may add to the file, for L{commit}.
        """
        max_growth = self.reserve.max_growth(batch)
        self.reserve.grow_map(max_growth)
        return max_growth

    def commit(self, batch: Batch, max_growth: int) -> None:
        """
        Write C{batch}, which adds at most C{max_growth} bytes to the file.

        The errors are those of L{IStore.commit<pexservice.stores.interface.IStore.commit>}.
        """
        try:
            self.check_location()
            self.reserve.ensure_space(max_growth)
            txn, bounds = self._write_uncommitted(batch)
        except LOW_LEVEL_ERRORS as error:
            # Without a commit, the batch is not stored.
            raise self._record_and_convert(error) from error
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            # LMDB raises this before it writes any page.
            raise self._full_map_refusal() from error
        except DAMAGE_ERRORS as error:
            # LMDB finds damage while it updates its list of free pages, before it writes
            # the pages of the batch.
            raise self._record_and_convert(error) from error
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
            raise self._record_and_convert(error) from error
        except lmdb.Error as error:
            raise Refusal(f"the history cannot be read: {error}") from error

    def _record_and_convert(self, error: Exception) -> StoreError:
        """
        If C{error} shows damage, record this in the witness.  Return the L{StoreError}.

        Call this only if nothing was written: a L{StoreError} says that nothing is stored.
        """
        if isinstance(error, DAMAGE_ERRORS):
            self._witness.write(WitnessRecord(self._bounds.revision, sound=False))
        return as_store_error(self._directory.configured_path, error)

    def close(self) -> None:
        self._witness.close()
        self.databases.env.close()
