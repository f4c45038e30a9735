"""
The directory of a store: its lock, its identity, and the creation of a store in it.

Only the process that has locked the directory writes to the data file; a backup and a
standby may read the file.  The lock is an advisory lock of the kernel (C{flock}) on the
directory itself, so the lock ends with the process.  In spite of its name, the file
C{lock.mdb} is not this lock, but LMDB's table of readers.

A new store is made in a subdirectory, the I{staging} directory.  Then its data file is
renamed into the directory.  So a power cut leaves a whole store or none.

While a service runs, an operator may move the directory, switch the symbolic link that
leads to it, or unmount the disk.  Then the next worker would open or create another store,
and steps would be lost.  Two rules prevent this:

  - The active worker compares the store that it opened with the store at the configured
    path, and refuses steps while the two have a different I{identity}.  The identity is
    made of two pairs of device and inode: those of the directory and of the data file.
  - The first worker I{claims} the store for the service: it writes the identity into memory
    that all workers of the service share.  Later workers open no store with another
    identity, and create no store.
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
from pexservice.stores.errors import Refusal, StoreBusy, StoreDamaged, StoreError
from pexservice.stores.lmdb.file_system import (
    READER_TABLE_FILE,
    allocate,
    describe_lock_holder,
    refuse_network_file_system,
    sync_directory,
)

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

    To open a store, call L{lock} and L{find_or_create_store}, and L{claim_store} when LMDB
    has opened the store.  There are three ways to the directory::

        configured_path  where the operator expects the store; it may contain links
        real_path        configured_path without links, as L{lock} found it; for LMDB
        descriptor       the locked directory, even after it was moved: for the identity

    The identity of the store is compared with the claim, and with the store at the path::

        find_or_create_store  with the claim, before the store is verified or rewritten
        claim_store           with both, when LMDB has opened the store
        check_location        with the store at the path, now and then before a commit
    """

    _log = Logger()

    def __init__(
        self, path: str, *, create: bool = True, claim: StoreClaim | None = None
    ) -> None:
        """
        Prepare to use the directory C{path}, without opening it.

        @param create: whether the directory and a store may be created.
        @param claim: names the store that all workers of the service use; C{None} outside
            a worker.
        """
        self.configured_path = Path(os.path.abspath(path))  # noqa: PTH100 resolve() would lose the name
        self.real_path = Path(os.path.realpath(path))
        self._create = create
        self._claim = claim
        # -1 is never a descriptor, so system calls fail until the directory is locked.
        self._descriptor = -1
        self._identity = ""
        self._logged_problem: str | None = None

    @property
    def _claimed_identity(self) -> str | None:
        return None if self._claim is None else self._claim.identity()

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
            raise StoreError(f"the store {self.real_path}: {error.strerror}") from error

    def _lock_descriptor(self, descriptor: int, *, wait: bool) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = describe_lock_holder(self.real_path)
            raise StoreBusy(f"the store {self.real_path} is in use by {holder}") from None
        except OSError as error:
            raise StoreError(
                f"the store {self.real_path} cannot be locked: {error.strerror}"
            ) from error
        if not self._path_leads_to(descriptor):
            raise StoreError(
                f"the store {self.real_path} was replaced by another directory before this"
                " process had locked it"
            )

    def check_openable(self) -> None:
        """
        Check that the directory can be locked, and that it has a store or may get one.

        This writes nothing, but holds the lock for a moment.

        @raise StoreError: the directory cannot be locked, or may not get a store.
        """
        refuse_network_file_system(self.real_path)
        if not self.holds_store():
            self._check_may_create()
        if self.real_path.exists():
            self.lock()
            self.unlock()
        elif not os.access(self.real_path.parent, os.W_OK | os.X_OK):
            raise StoreError(
                f"the store {self.real_path} cannot be created:"
                f" {self.real_path.parent} does not exist or is not writable"
            )

    def _check_may_create(self) -> None:
        self._check_not_gone()
        if not self._create:
            raise StoreError(
                f"there is no store in {self.configured_path}, and --no-create is set;"
                f" create one with pexctl create --store lmdb:{self.configured_path}"
            )

    def _check_not_gone(self) -> None:
        if self._claimed_identity is not None:
            raise StoreError(
                f"the store {self.configured_path} is gone; put it back, since only a start"
                " of the service may create a store"
            )

    def _path_leads_to(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.configured_path.stat())
        except OSError:
            return False

    def unlock(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def find_or_create_store(self, make: Callable[[Path], None]) -> bool:
        """
        Find the store in the locked directory, or make one, and remember its identity.

        @param make: makes a store in the directory that it is called with.
        @return: whether the store was made now.
        @raise StoreError: the service has claimed a different store; there is no store and
            none may be created; or the creation failed.
        """
        if exists := self.holds_store():
            self.remove_staging()
            self._identity = _identity_in(self._descriptor)
        else:
            self._check_may_create()
            self.install(make)
            self._log.warn(
                "created a new store in {path}: its cursor is at revision 0, position 0",
                path=self.real_path,
            )
        if (claimed := self._claimed_identity) is not None:
            self._check_same_store(claimed)
        return not exists

    def claim_store(self) -> None:
        """
        Claim the store for the service, after LMDB has opened the store.

        @raise StoreError: the configured path leads to no store or to a different one, or
            the service has claimed a different store.
        """
        self._check_configured_path()
        if self._claim is not None:
            self._check_same_store(self._claim.take(self._identity))

    def _check_configured_path(self) -> None:
        try:
            identity = _identity_of(
                self.configured_path.stat(), (self.configured_path / DATA_FILE).stat()
            )
        except OSError as error:
            raise StoreError(
                f"the store {self.configured_path} was moved away ({error.strerror})"
            ) from error
        self._check_same_store(identity)

    def _check_same_store(self, identity: str) -> None:
        if identity != self._identity:
            raise StoreError(
                f"another store was put in the place of {self.configured_path}; put back"
                " the one that the service has served, or restart the service"
            )

    def check_location(self) -> None:
        """
        Check that the configured path leads to the opened store.

        If the outcome has changed since the last call, log it.

        @raise Refusal: the path leads to no store, or to a different one.
        """
        problem = None
        try:
            self._check_configured_path()
        except StoreError as error:
            problem = str(error)
        if problem != self._logged_problem:
            if problem is None:
                self._log.info("the store {name} is back", name=self.configured_path)
            else:
                self._log.error("{problem}; steps are refused", problem=problem)
        self._logged_problem = problem
        if problem is not None:
            raise Refusal(problem)

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

    def file_system(self) -> os.statvfs_result:
        return os.fstatvfs(self._descriptor)

    def holds_store(self) -> bool:
        """
        Return whether the directory exists and holds a store.

        @raise StoreDamaged: the data file is missing, but other files of a store are there.
        @raise StoreError: the data file of a claimed store is missing, because an operator
            may be moving the store; the directory cannot be read; or it holds other files.
        """
        names = self._entries()
        if DATA_FILE in names:
            return True
        if names & {READER_TABLE_FILE, WITNESS_FILE}:
            self._check_not_gone()
            raise StoreDamaged(f"the store {self.real_path} has lost its file {DATA_FILE}")
        if other_names := names - {STAGING_DIRECTORY}:
            raise StoreError(
                f"the directory {self.real_path} holds something else"
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
            raise StoreError(f"the store {self.real_path}: {error.strerror}") from error
        for name in names & {DATA_FILE, READER_TABLE_FILE, WITNESS_FILE}:
            # Opening a FIFO would block for ever.
            if not (self.real_path / name).is_file():
                raise StoreError(
                    f"the store {self.real_path} cannot be opened:"
                    f" {name} is not a regular file"
                )
        return names

    def install(self, make: Callable[[Path], None]) -> None:
        """
        Make a store in this directory, or replace the store in it, durably.

        If this service has claimed the replaced store, it claims the new store instead.
        This method may run in a thread.  It keeps the lock until it returns, even if
        L{unlock} is called meanwhile.

        @param make: makes a store in the directory that it is called with.
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
            make(staging)
            sync_directory(staging)
            (staging / DATA_FILE).rename(self.real_path / DATA_FILE)
            # If this process ends between the rename and the renewal, no worker of this
            # service opens the new store.  So the renewal comes before the slow flush.
            replaced, self._identity = self._identity, _identity_in(lock)
            if self._claim is not None:
                self._claim.renew(replaced, self._identity)
            sync_directory(self.real_path)
            shutil.rmtree(staging)
        except OSError as error:
            raise StoreError(
                f"the store {self.real_path} cannot be made: {error.strerror}"
            ) from error
        finally:
            os.close(lock)

    def remove_staging(self) -> None:
        """
        Remove the subdirectory that an interrupted L{install} has left.
        """
        staging = self.real_path / STAGING_DIRECTORY
        if staging.exists():
            # An interrupted L{install} may have renamed the data file into its place.  So
            # first flush the rename.  Otherwise a power cut could keep the removal but undo
            # the rename, and the store would be lost.
            sync_directory(self.real_path)
            shutil.rmtree(staging)


def _identity_of(directory: os.stat_result, file: os.stat_result) -> str:
    return " ".join(f"{status.st_dev}:{status.st_ino}" for status in (directory, file))


def _identity_in(descriptor: int) -> str:
    return _identity_of(os.fstat(descriptor), os.stat(DATA_FILE, dir_fd=descriptor))


def directory_with_store(path: str) -> Directory:
    """
    Return the directory C{path}, which must hold a store.

    @raise StoreError: the directory holds no store.
    """
    directory = Directory(path)
    if not directory.holds_store():
        raise StoreError(f"there is no store in {directory.real_path}")
    return directory
