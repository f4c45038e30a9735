"""
The directory of a store: its lock, its entries, and the installation of a store in it.

Only the process that has locked the directory writes to the data file; a backup and a
standby may read the file.  The lock is an advisory lock of the kernel (C{flock}) on the
directory itself, so the lock ends with the process.  In spite of its name, the file
C{lock.mdb} is not this lock, but LMDB's table of readers.

A new store is made in a subdirectory, the I{staging} directory.  Then its data file is
renamed into the directory.  So a power cut leaves a whole store or none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import StoreBusy, StoreDamaged, StoreError
from pexservice.stores.lmdb.file_system import (
    READER_TABLE_FILE,
    allocate,
    describe_lock_holder,
    refuse_network_file_system,
    sync_directory,
)
from pexservice.stores.lmdb.location import StoreLocation, identity_of

#: The file with LMDB's data.
DATA_FILE = "data.mdb"

#: The witness of the newest commit; see L{pexservice.stores.lmdb.witness}.
WITNESS_FILE = "newest"

#: The subdirectory in which a store is made.
STAGING_DIRECTORY = "creating"

#: These entries are ignored.  They exist if the directory is the root of a file system.
_FILE_SYSTEM_ENTRIES = frozenset(("lost+found",))


class Directory:
    """
    The directory of a store.

    To open a store, call L{lock}, L{find_or_create_store}, and L{StoreLocation.claim_store}
    when LMDB has opened the store.

    @ivar configured_path: where the operator expects the store.  The path may contain
        symbolic links.  Messages about the directory name this path.
    @ivar real_path: C{configured_path} with its links resolved, again by each L{lock}.
        LMDB and child processes get this path: if an operator switches a link, they still
        use the locked directory.
    @ivar location: compares the store in this directory with the one at the configured
        path, and with the one that the service has claimed.
    """

    _log = Logger()

    def __init__(
        self, path: str, *, create: bool = True, claim: StoreClaim | None = None
    ) -> None:
        """
        Prepare to use the directory C{path}, without opening it.

        @param create: whether the directory and a store may be created.
        @param claim: see L{StoreLocation}.
        """
        self.configured_path = Path(os.path.abspath(path))  # noqa: PTH100 resolve() would lose the name
        self.real_path = Path(os.path.realpath(path))
        self.location = StoreLocation(
            self.configured_path, self.configured_path / DATA_FILE, claim
        )
        self._create = create
        # -1 is never a descriptor, so system calls fail until the directory is locked.
        self._descriptor = -1

    def lock(self, *, wait: bool = False) -> None:
        """
        Lock this directory.  If it does not exist, create it first.

        This resolves the symbolic links again, because an operator may have switched one.

        @param wait: if another process has locked the directory, block until that process
            ends.  The kernel wakes this process at once.
        @raise StoreBusy: another process has locked the directory.
        @raise StoreError: the directory cannot be created or locked.
        """
        self.real_path = Path(os.path.realpath(self.configured_path))
        refuse_network_file_system(self.real_path)
        descriptor = self._open_or_create()
        try:
            self._lock_descriptor(descriptor, wait=wait)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _open_or_create(self) -> int:
        try:
            if not self.real_path.exists():
                self._check_may_create()
                # Parent directories are not created: a mistyped path must not create them.
                with suppress(FileExistsError):
                    self.real_path.mkdir(0o700)
                    sync_directory(self.real_path.parent)
            return os.open(self.real_path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(
                f"the store {self.configured_path}: {error.strerror}"
            ) from error

    def _lock_descriptor(self, descriptor: int, *, wait: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = describe_lock_holder(self.real_path)
            raise StoreBusy(
                f"the store {self.configured_path} is in use by {holder}"
            ) from None
        except OSError as error:
            raise StoreError(
                f"the store {self.configured_path} cannot be locked: {error.strerror}"
            ) from error
        if not self._is_at_path(descriptor):
            raise StoreError(
                f"the store {self.configured_path} was moved or replaced before this"
                " process had locked it"
            )

    def check_openable(self) -> None:
        """
        Check that the directory can be locked, and that it has a store or may get one.

        This writes nothing, but holds the lock for a moment.

        @raise StoreError: the directory cannot be locked or written to, or may not get a
            store.
        """
        refuse_network_file_system(self.real_path)
        if not self.find_store():
            self._check_may_create()
        if self.real_path.exists():
            self.lock()
            self.unlock()
            for name in (DATA_FILE, READER_TABLE_FILE):
                file = self.real_path / name
                needed = file if file.exists() else self.real_path
                if not os.access(needed, os.R_OK | os.W_OK):
                    raise StoreError(
                        f"the store {self.configured_path} cannot be used: {needed} is not"
                        " writable"
                    )
        elif not os.access(self.real_path.parent, os.W_OK | os.X_OK):
            raise StoreError(
                f"the store {self.configured_path} cannot be created:"
                f" {self.real_path.parent} does not exist or is not writable"
            )

    def _check_may_create(self) -> None:
        self.location.refuse_if_claimed()
        if not self._create:
            raise StoreError(
                f"there is no store in {self.configured_path}, and --no-create is set;"
                f" create one with pexctl create --store lmdb:{self.configured_path}"
            )

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.configured_path.stat())
        except OSError:
            return False

    def unlock(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def find_or_create_store(self, write_store: Callable[[Path], None]) -> bool:
        """
        Find the store in the locked directory, or create one.

        @param write_store: see L{replace_store}.
        @return: whether the store was created now.
        @raise StoreError: the service has claimed a different store; there is no store and
            none may be created; or a store could not be created.
        """
        if self.find_store():
            self.use_store()
            return False
        self._check_may_create()
        self.replace_store(write_store)
        self._log.warn(
            "created a new store in {path}: its cursor is at revision 0, position 0",
            path=self.configured_path,
        )
        return True

    def use_store(self) -> None:
        """
        Prepare to open the store that is in the locked directory.

        @raise StoreError: the service has claimed a different store.
        """
        self.remove_staging()
        self.location.set_identity(_identity_in(self._descriptor))

    def allocate_data_file(self, length: int) -> None:
        """
        Allocate disk space for the first C{length} bytes of the data file.

        @raise OSError: there is not enough space.
        """
        descriptor = os.open(DATA_FILE, os.O_RDWR, dir_fd=self._descriptor)
        try:
            allocate(descriptor, length)
        finally:
            os.close(descriptor)

    def file_system_status(self) -> os.statvfs_result:
        return os.fstatvfs(self._descriptor)

    def find_store(self) -> bool:
        """
        Look for a store in the directory, which need not exist.

        @return: whether there is a store.
        @raise StoreDamaged: the data file is missing, but other files of a store are there.
        @raise StoreError: the data file of a claimed store is missing, because an operator
            may be moving the store; the directory cannot be read; or it holds other files.
        """
        names = self._entries()
        if DATA_FILE in names:
            return True
        if names & {READER_TABLE_FILE, WITNESS_FILE}:
            self.location.refuse_if_claimed()
            raise StoreDamaged(
                f"the store {self.configured_path} has lost its file {DATA_FILE}"
            )
        if other_names := names - {STAGING_DIRECTORY}:
            raise StoreError(
                f"the directory {self.configured_path} holds something else"
                f" ({min(other_names)}); give the store a directory of its own"
            )
        return False

    def _entries(self) -> set[str]:
        """
        Return the names in the directory, after a check of the store's files.
        """
        try:
            names = {path.name for path in self.real_path.iterdir()} - _FILE_SYSTEM_ENTRIES
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(
                f"the store {self.configured_path}: {error.strerror}"
            ) from error
        for name in names & {DATA_FILE, READER_TABLE_FILE, WITNESS_FILE}:
            # Opening a FIFO would block for ever.
            if not (self.real_path / name).is_file():
                raise StoreError(
                    f"the store {self.configured_path} cannot be opened:"
                    f" {name} is not a regular file"
                )
        return names

    def replace_store(self, write_store: Callable[[Path], None]) -> None:
        """
        Put a new store into this directory, durably.

        If there is a store already, the new store takes its place.  If this service has
        claimed the old store, it claims the new store instead.

        This method may run in a thread.  It keeps the lock until it returns, even if
        L{unlock} is called meanwhile.

        @param write_store: writes a store into the directory that it is called with.
        @raise StoreError: the store could not be made.
        """
        staging = self.real_path / STAGING_DIRECTORY
        # The lock ends when its last descriptor is closed, so this copy keeps the lock.
        lock = os.dup(self._descriptor)
        try:
            self.remove_staging()
            # An earlier process may have created this directory and ended before it flushed
            # the parent directory.
            sync_directory(self.real_path.parent)
            if self.real_path.stat().st_uid == os.geteuid():
                self.real_path.chmod(0o700)
            staging.mkdir(0o700)
            write_store(staging)
            sync_directory(staging)
            (staging / DATA_FILE).rename(self.real_path / DATA_FILE)
            # If this process ends between the rename and the renewal, no worker of this
            # service opens the new store.  So the renewal comes before the slow flush.
            self.location.replace_identity(_identity_in(lock))
            sync_directory(self.real_path)
            shutil.rmtree(staging)
        except OSError as error:
            raise StoreError(
                f"the store {self.configured_path} cannot be made: {error.strerror}"
            ) from error
        finally:
            os.close(lock)

    def remove_staging(self) -> None:
        """
        Remove the subdirectory that an interrupted L{replace_store} has left.
        """
        staging = self.real_path / STAGING_DIRECTORY
        if staging.exists():
            # The interrupted call may have renamed the data file into its place.  So first
            # flush the rename.  Otherwise a power cut could keep the removal but undo the
            # rename, and the store would be lost.
            sync_directory(self.real_path)
            shutil.rmtree(staging)


def _identity_in(descriptor: int) -> str:
    return identity_of(os.fstat(descriptor), os.stat(DATA_FILE, dir_fd=descriptor))


def directory_with_store(path: str) -> Directory:
    """
    Return the directory C{path}, which must hold a store.

    @raise StoreError: the directory holds no store.
    """
    directory = Directory(path)
    if not directory.find_store():
        raise StoreError(f"there is no store in {directory.configured_path}")
    return directory
