"""
The directory of a store: its lock, its identity, and the creation of a store in it.

Only the process that has locked the directory writes to the store; a backup and a standby
may read it.  The lock is an advisory lock of the kernel (C{flock}) on the directory itself,
so it ends with the process.  LMDB's C{lock.mdb} is only its table of readers.

A new store is made in a subdirectory, the I{staging} directory.  Then its data file is
renamed into the directory.  So a power cut leaves a whole store or none.

While a service runs, an operator may move the directory, switch the symbolic link that
leads to it, or unmount the disk.  Then the next worker would open or create another store,
and steps would be lost.  Two rules prevent this:

  - The active worker compares the store that it opened with the store at the configured
    path, and refuses steps while the two have a different I{identity}.  The identity of a
    store is the devices and inodes of its directory and of its data file.
  - The first worker I{claims} the store for the service: it writes the identity into memory
    that all workers of the service share.  Later workers open no store with another
    identity, and create no store.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

from pexservice.process.children import supervisor_of
from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import StoreBusy, StoreDamaged, StoreError

#: The file with LMDB's data.
DATA_FILE = "data.mdb"

#: LMDB's table of readers.  Its content has a meaning only while a process has the store
#: open.
READER_TABLE_FILE = "lock.mdb"

#: The size of the table of readers, with LMDB's default of 126 readers.
READER_TABLE_BYTES = 8192

#: The witness of the newest commit; see L{pexservice.stores.lmdb.witness}.
WITNESS_FILE = "newest"

#: The subdirectory in which a store is made.
STAGING_DIRECTORY = "creating"

#: FALLOC_FL_KEEP_SIZE, of linux/falloc.h.
_KEEP_SIZE = 1

#: A file system makes these entries in its topmost directory.
_FILE_SYSTEM_ENTRIES = frozenset(("lost+found",))

#: File systems whose locks and memory maps are not reliable enough for a store.
_NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs"),
        *("fuse.sshfs", "gfs2", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"),
    )
)


def file_system_type(path: Path, mountinfo: str | None = None) -> str:
    """
    Return the type of the file system that C{path} is on.

    @return: the name of the type in C{/proc/self/mountinfo}, or C{"unknown"}.
    @param path: absolute and without symbolic links; it need not exist.
    @param mountinfo: the content of C{/proc/self/mountinfo}; by default it is read.
    """
    if mountinfo is None:
        try:
            mountinfo = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
        except OSError:
            return "unknown"
    file_system, longest = "unknown", -1
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        # The kernel writes a space, and some other characters, as an octal escape.
        point = re.sub(
            r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split(" ")[4]
        )
        depth = len(Path(point).parts)
        # The deepest mount point above the path counts.  If it has several mounts, the last
        # one counts.
        if path.is_relative_to(point) and depth >= longest:
            file_system, longest = source.split(" ")[0], depth
    return file_system


def sync_directory(path: Path) -> None:
    """
    Make the entries of the directory C{path} durable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_reader_table(directory: Path) -> None:
    """
    Make LMDB's table of readers, and allocate all of its disk space.

    LMDB maps the table into memory.  Without the disk space, a write to it would end this
    process by SIGBUS when the disk is full.

    @raise OSError: the disk has no space for the table.
    """
    descriptor = os.open(
        directory / READER_TABLE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        os.posix_fallocate(descriptor, 0, READER_TABLE_BYTES)
    finally:
        os.close(descriptor)


def chown_like(reference: Path, path: Path) -> None:
    """
    Give the store in C{path} to the owner of C{reference}, if this process runs as root.
    """
    if os.geteuid() == 0:
        owner = reference.stat()
        for created in (path, *path.iterdir()):
            os.chown(created, owner.st_uid, owner.st_gid)


def lock_holder(path: Path) -> str:
    """
    Describe the process that has locked the directory C{path}.

    In a container, the kernel may not show the ID of that process.
    """
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "another process"
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4321 08:01:917506 0 EOF
        words = line.split()
        if (
            words[1] == "FLOCK"
            and words[5] == f"{device}:{status.st_ino}"
            and words[4] != "0"
        ):
            supervisor = supervisor_of(int(words[4]))
            whose = (
                "" if supervisor is None else f", whose supervisor is process {supervisor}"
            )
            return f"process {words[4]}{whose}"
    return "another process"


def identity_of(directory: os.stat_result, file: os.stat_result) -> str:
    """
    Return the identity of a store: the devices and inodes of its directory and data file.
    """
    return " ".join(f"{status.st_dev}:{status.st_ino}" for status in (directory, file))


class Directory:
    """
    The directory of a store.

    @ivar configured_path: the operator's path, as an absolute path that may contain
        symbolic links.
    @ivar real_path: the same path without symbolic links.  L{lock} resolves the links
        again, because an operator may have switched a link.
    """

    _log = Logger()

    def __init__(
        self, path: str, *, create: bool = True, claim: StoreClaim | None = None
    ) -> None:
        """
        Prepare to use the directory C{path}, without opening it.

        @param create: whether the directory and a store may be created.
        @param claim: the claim of the service that this worker belongs to.
        """
        self.configured_path = Path(os.path.abspath(path))  # noqa: PTH100 resolve() would lose the name
        self.real_path = Path(os.path.realpath(path))
        self._create = create
        self._claim = claim
        # -1 is never a descriptor, so system calls fail until the directory is locked.
        self._descriptor = -1
        self._opened_identity: str | None = None
        self._has_installed_store = False
        self._logged_problem: str | None = None

    def __repr__(self) -> str:
        return f"<Directory {self.configured_path}>"

    @property
    def _claimed_identity(self) -> str | None:
        return None if self._claim is None else self._claim.identity()

    def lock(self, *, wait: bool = False) -> None:
        """
        Lock this directory, and create it if it does not exist and may be created.

        @param wait: block until no other process has locked it.  The kernel wakes this
            process as soon as the other process ends.
        @raise StoreBusy: another process has locked the directory.
        @raise StoreError: the directory cannot be locked; or there is none, and it may not
            or cannot be created.
        """
        self.real_path = Path(os.path.realpath(self.configured_path))
        self._has_installed_store = False
        self._refuse_network_file_system()
        try:
            if not self.real_path.exists():
                self._check_may_create()
                # Parent directories are not created: a mistyped path must not create them.
                with suppress(FileExistsError):
                    self.real_path.mkdir(0o700)
                    sync_directory(self.real_path.parent)
            descriptor = os.open(self.real_path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"the store {self.real_path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            holder = lock_holder(self.real_path)
            raise StoreBusy(f"the store {self.real_path} is in use by {holder}") from None
        except OSError as error:
            os.close(descriptor)
            raise StoreError(
                f"the store {self.real_path} cannot be locked: {error.strerror}"
            ) from error
        if not self._still_leads_to(descriptor):
            os.close(descriptor)
            raise StoreError(
                f"the store {self.real_path} was replaced by another directory before this"
                " process had locked it"
            )
        self._descriptor = descriptor

    def _refuse_network_file_system(self) -> None:
        kind = file_system_type(self.real_path)
        if kind in _NETWORK_FILE_SYSTEMS:
            raise StoreError(
                f"the store {self.real_path} is on a network file system ({kind}), where"
                " locks and memory maps are not reliable; put it on a local disk"
            )

    def check_openable(self) -> None:
        """
        Check that a process could lock and open a store here.  This changes nothing.

        @raise StoreBusy: another process has locked the directory.
        @raise StoreError: no process could open a store here, for another reason.
        """
        self._refuse_network_file_system()
        if not self.real_path.exists() or not self.holds_store():
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
        """
        @raise StoreError: no store may be created here.
        """
        if self._claimed_identity is not None:
            raise StoreError(self._store_gone_message())
        if not self._create:
            raise StoreError(
                f"there is no store in {self.configured_path}, and --no-create is set;"
                f" create one with pexctl create --store lmdb:{self.configured_path}"
            )

    def _store_gone_message(self) -> str:
        return (
            f"the store {self.configured_path} is gone; put it back, since only a start of"
            " the service may create a store"
        )

    def _still_leads_to(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.configured_path.stat())
        except OSError:
            return False

    def unlock(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def remember_identity(self) -> None:
        """
        Remember the identity of the store in the locked directory.

        @raise StoreError: the service has claimed another store.
        """
        self._opened_identity = identity_of(
            os.fstat(self._descriptor), os.stat(DATA_FILE, dir_fd=self._descriptor)
        )
        claimed = self._claimed_identity
        # A store that this process has installed, such as a migrated store, has a new data
        # file, so its identity differs from the claimed one.
        if not self._has_installed_store and claimed not in (None, self._opened_identity):
            raise StoreError(self._other_store_message())

    def claim_store(self) -> None:
        """
        Claim the opened store, so that no worker of the service opens another one.

        @raise OSError: the configured path leads to no store.
        @raise StoreError: the configured path leads to another store, or the service has
            claimed another store.
        """
        if self._present_identity() != self._opened_identity:
            raise StoreError(self._other_store_message())
        if self._claim is None or self._opened_identity is None:
            return
        claimed = self._claim.take(self._opened_identity, replace=self._has_installed_store)
        if claimed != self._opened_identity:
            raise StoreError(self._other_store_message())

    def _present_identity(self) -> str:
        return identity_of(
            self.configured_path.stat(), (self.configured_path / DATA_FILE).stat()
        )

    def _other_store_message(self) -> str:
        return (
            f"another store was put in the place of {self.configured_path}; put back the"
            " one that the service has served, or restart the service"
        )

    def location_problem(self) -> str | None:
        """
        Compare the opened store with the store at the configured path.

        A change of the result since the last call is logged.

        @return: why the next worker would not open this store; C{None} if it would.
        """
        problem = None
        try:
            if self._present_identity() != self._opened_identity:
                problem = self._other_store_message()
        except OSError as error:
            problem = f"the store {self.configured_path} was moved away ({error.strerror})"
        if problem != self._logged_problem:
            if problem is None:
                self._log.info("the store {name} is back", name=self.configured_path)
            else:
                self._log.error("{problem}; steps are refused", problem=problem)
        self._logged_problem = problem
        return problem

    def allocate(self, length: int) -> None:
        """
        Allocate disk space for the first C{length} bytes of the data file.

        The size and the content of the file stay as they are.  Some file systems cannot
        allocate; then this method only checks that there is enough free space.

        @raise OSError: there is not enough space.
        """
        # os.posix_fallocate would also extend the file to C{length}.  If a part at the end
        # of the file was lost, a verification could no longer see this from the size.
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(DATA_FILE, os.O_RDWR, dir_fd=self._descriptor)
        try:
            offset, until = ctypes.c_long(0), ctypes.c_long(length)
            error = errno.EINTR
            while error == errno.EINTR:
                if not libc.fallocate(descriptor, _KEEP_SIZE, offset, until):
                    return
                error = ctypes.get_errno()
            if error in (errno.EOPNOTSUPP, errno.ENOSYS):
                disk = os.fstatvfs(descriptor)
                allocated = os.fstat(descriptor).st_blocks * 512
                if disk.f_bavail * disk.f_frsize >= length - allocated:
                    return
                error = errno.ENOSPC
        finally:
            os.close(descriptor)
        raise OSError(error, os.strerror(error))

    def file_system(self) -> os.statvfs_result:
        return os.fstatvfs(self._descriptor)

    def holds_store(self) -> bool:
        """
        Return whether the directory holds a store.

        @raise StoreDamaged: the directory holds only a part of a store.
        @raise StoreError: the directory cannot be read; it holds something else; or it
            holds only a part of a claimed store, which an operator may be moving.
        """
        try:
            names = {
                entry.name for entry in self.real_path.iterdir()
            } - _FILE_SYSTEM_ENTRIES
        except OSError as error:
            raise StoreError(f"the store {self.real_path}: {error.strerror}") from error
        for name in names & {DATA_FILE, READER_TABLE_FILE, WITNESS_FILE}:
            # Opening a FIFO would block for ever.
            if not (self.real_path / name).is_file():
                raise StoreError(
                    f"the store {self.real_path} cannot be opened:"
                    f" {name} is not a regular file"
                )
        if DATA_FILE in names:
            return True
        if names & {READER_TABLE_FILE, WITNESS_FILE}:
            if self._claimed_identity is not None:
                # An operator may be moving the files, so this is no damage.
                raise StoreError(self._store_gone_message())
            raise StoreDamaged(f"the store {self.real_path} has lost its file {DATA_FILE}")
        if other_names := names - {STAGING_DIRECTORY}:
            raise StoreError(
                f"the directory {self.real_path} holds something else"
                f" ({min(other_names)}); give the store a directory of its own"
            )
        return False

    def create_first_store(self, make: Callable[[Path], None]) -> None:
        """
        Make the first store in this directory, durably.

        @param make: makes a store in the directory that it is called with.
        @raise StoreError: no store may be created here, or none could be made.
        """
        self._check_may_create()
        self.install(make)
        self._log.warn(
            "created a new store in {path}: its cursor is at revision 0, position 0",
            path=self.real_path,
        )

    def install(self, make: Callable[[Path], None]) -> None:
        """
        Make a store in this directory, or replace the store in it, durably.

        This may run in a thread.  If L{unlock} is called meanwhile, the directory stays
        locked until the thread has ended.

        @param make: makes a store in the directory that it is called with.
        @raise StoreError: the store could not be made.
        """
        staging = self.real_path / STAGING_DIRECTORY
        # The lock ends when its last descriptor is closed.
        lock = os.dup(self._descriptor)
        try:
            self.remove_staging()
            # Another process may have created this directory and ended before it made the
            # directory's entry durable.
            sync_directory(self.real_path.parent)
            if self.real_path.stat().st_uid == os.geteuid():
                self.real_path.chmod(0o700)
            staging.mkdir(0o700)
            make(staging)
            sync_directory(staging)
            (staging / DATA_FILE).rename(self.real_path / DATA_FILE)
            sync_directory(self.real_path)
            self._has_installed_store = True
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
            # The data file may have been renamed into its place, but not durably.
            sync_directory(self.real_path)
            shutil.rmtree(staging)


def directory_with_store(path: str) -> Directory:
    """
    Return the directory C{path}, which must hold a store.

    @raise StoreError: the directory holds no store.
    """
    directory = Directory(path)
    if not directory.holds_store():
        raise StoreError(f"there is no store in {directory.real_path}")
    return directory
