"""
A directory that one process owns, and that holds a whole store or none.

The store is made beside its place and renamed into it, so a power cut while it is
made leaves either nothing or a store.  Ownership is an advisory lock on the
directory itself: the kernel lets go of it when the process dies, however it dies,
and no file is left to be mistaken for one.

The lock is on a directory, and an operator may give its name to another one: move the
directory of a running service away, switch the symbolic link that leads to it, or unmount
its disk.  Two workers must never serve two stores because of that.  So the store that a
worker opened is compared with what has the configured name, now and then and before each
later worker serves; and the first worker of a service claims its store, so that a later
worker refuses any other one and creates none.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

from pexservice.stores.interface import (
    Claim,
    StoreBusy,
    StoreDamaged,
    StoreMissing,
    StoreUnusable,
)

#: The file that is the store.
DATA = "data.mdb"

#: LMDB's reader table, which says nothing that lasts.
LOCK = "lock.mdb"

#: The size that LMDB gives that table, with its 126 readers.  Bytes.
LOCK_SIZE = 8192

#: The witness of the newest commit.
WITNESS = "newest"

#: Where a store is made before it is renamed into its place.
NURSERY = "creating"

#: FALLOC_FL_KEEP_SIZE, of linux/falloc.h.
_KEEP_SIZE = 1

#: The errors of a file system that has no such call.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS)

#: The names that a file system brings itself.
_OTHERS = frozenset(("lost+found",))

#: File systems whose locks and memory maps do not hold what a store needs.
_NETWORK = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    )
)


def file_system_type(path: Path, mountinfo: str | None = None) -> str:
    """
    Return the type of the file system that C{path} is on.

    The type is named as in C{/proc/self/mountinfo}; C{"unknown"} stands for a type that is
    not found there.

    @param path: absolute and without symbolic links; need not exist.
    @param mountinfo: the table to look it up in, instead of this process's.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return "unknown"
    found, longest = "unknown", -1
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        # Spaces and the like stand there as octal escapes.
        point = mount.split(" ")[4].encode("ascii", "ignore").decode("unicode_escape")
        depth = len(Path(point).parts)
        # Of two mounts on one point, the later one hides the earlier.
        if path.is_relative_to(point) and depth >= longest:
            found, longest = source.split(" ")[0], depth
    return found


def _refuse_network(path: Path) -> None:
    kind = file_system_type(path)
    if kind in _NETWORK:
        raise StoreUnusable(
            f"the store {path} is on a network file system ({kind}), where locks and"
            " memory maps are not reliable; put it on a local disk"
        )


def sync(path: Path) -> None:
    """
    Make the entries of the directory C{path} durable.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_lock_file(directory: Path) -> None:
    """
    Make LMDB's table of readers, or fill the holes in it.

    LMDB maps the table, and to touch a hole on a full disk would end this process by
    SIGBUS.

    @raise OSError: there is no room for the table.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, LOCK_SIZE)
    finally:
        os.close(descriptor)


def _identity(directory: os.stat_result, file: os.stat_result) -> str:
    """
    Return the devices and inodes of a store's directory and file.
    """
    return " ".join(f"{status.st_dev}:{status.st_ino}" for status in (directory, file))


def lock_holder(directory: int) -> int | None:
    """
    Return the ID of the process that has the lock on an open directory.

    @return: C{None} if there is no such process, or the kernel does not show it, as in a
        container.
    """
    status = os.fstat(directory)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4321 08:01:917506 0 EOF
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{status.st_ino}":
            return int(words[4]) or None
    return None


def owner_of(path: Path) -> int | None:
    """
    Return the ID of the process that owns the directory C{path}, as L{lock_holder} does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return lock_holder(descriptor)
    finally:
        os.close(descriptor)


def _process_name(pid: int | None) -> str:
    """
    Return C{pid} in words.
    """
    return "another process" if pid is None else f"process {pid}"


class Directory:
    """
    A directory that one process owns, and that holds a whole store or none.

    @ivar name: its configured name: absolute, with its symbolic links.
    @ivar path: the directory that the name led to when it was opened: absolute, symbolic
        links resolved.
    """

    _log = Logger()

    def __init__(
        self, path: str, *, create: bool = True, claim: Claim | None = None
    ) -> None:
        """
        Name the directory C{path}, without opening it.

        @param create: whether the directory and a store may be created.
        @param claim: the store of the service that this process is a worker of.
        """
        self.name = Path(os.path.abspath(path))  # noqa: PTH100 resolve() would lose the name
        self.path = Path(os.path.realpath(path))
        self._create = create
        self._claim = claim
        # While the directory is not owned, one with which every call fails.
        self._descriptor = -1
        self._identity: str | None = None
        # Whether this process put the store's file in place.
        self._installed = False
        self._problem: str | None = None

    def __repr__(self) -> str:
        return f"<Directory {self.name}>"

    @property
    def _is_claimed(self) -> bool:
        return self._claim is not None and self._claim.identity() is not None

    def own(self) -> None:
        """
        Become the one process that uses this directory; create it if that is allowed.

        @raise StoreBusy: another process owns it.
        @raise StoreMissing: there is no such directory, and none may be created.
        @raise StoreUnusable: there can be no such directory.
        """
        self._own(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def await_ownership(self) -> None:
        """
        Become the owner as L{own} does, but block until the directory is free.

        The kernel wakes the waiting process the moment that the owner dies.
        """
        self._own(fcntl.LOCK_EX)

    def _own(self, operation: int) -> None:
        self.path = Path(os.path.realpath(self.name))
        self._installed = False
        _refuse_network(self.path)
        try:
            if not self.path.exists():
                self._require_creation()
                # Not its parents: a name mistyped must not grow a tree.
                with suppress(FileExistsError):
                    self.path.mkdir(0o700)
                    sync(self.path.parent)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreUnusable(f"the store {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            owner = _process_name(lock_holder(descriptor))
            os.close(descriptor)
            raise StoreBusy(f"the store {self.path} is in use by {owner}") from None
        except OSError as error:
            os.close(descriptor)
            raise StoreUnusable(
                f"the store {self.path} cannot be locked: {error.strerror}"
            ) from error
        if not self._has_our_name(descriptor):
            os.close(descriptor)
            raise StoreUnusable(
                f"the store {self.path} was replaced by another directory before this"
                " process had locked it"
            )
        self._descriptor = descriptor

    def give_to_owner_of_parent(self) -> None:
        """
        Give what root has created to the user in whose directory it lies.
        """
        if os.geteuid() == 0:
            owner = self.path.parent.stat()
            for path in (self.path, *self.path.iterdir()):
                os.chown(path, owner.st_uid, owner.st_gid)

    def check_start(self) -> None:
        """
        Check, without changing or reading much, whether a process could own a store here.

        @raise StoreBusy: another process owns the directory.
        @raise StoreUnusable: or another subclass, for another reason.
        """
        _refuse_network(self.path)
        if not self.path.exists() or not self.holds_a_store():
            self._require_creation()
        if self.path.exists():
            self.own()
            self.release()
        elif not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise StoreUnusable(
                f"the store {self.path} cannot be created: {self.path.parent} does not"
                " exist or is not writable"
            )

    def _require_creation(self) -> None:
        """
        @raise StoreMissing: no store may be created here.
        """
        if self._is_claimed:
            raise StoreMissing(
                f"the store {self.name} is gone; put it back, since only a start of the"
                " service may create a store"
            )
        if not self._create:
            raise StoreMissing(
                f"there is no store in {self.name}, and --no-create is set; create one"
                f" with pexctl create --store lmdb:{self.name}"
            )

    def _has_our_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.name.stat())
        except OSError:
            return False

    def release(self) -> None:
        """
        Let another process own the directory.
        """
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._descriptor = -1

    def remember_file(self) -> None:
        """
        Remember the store's file in the owned directory.

        @raise StoreUnusable: it is not the file of the store that the service serves.
        """
        self._identity = _identity(
            os.fstat(self._descriptor), os.stat(DATA, dir_fd=self._descriptor)
        )
        if self._installed or self._claim is None:
            return
        if self._claim.identity() not in (None, self._identity):
            raise StoreUnusable(self._other_store())

    def claim_file(self) -> None:
        """
        Claim the remembered file for all workers of the service.

        @raise OSError: there is nothing under the store's name.
        @raise StoreUnusable: the name leads to another store, or another worker has claimed
            another one.
        """
        self._require_its_name()
        if self._claim is None or self._identity is None:
            return
        if self._claim.take(self._identity, replace=self._installed) != self._identity:
            raise StoreUnusable(self._other_store())

    def _other_store(self) -> str:
        return (
            f"another store was put in the place of {self.name}; put back the one that the"
            " service has served, or restart the service"
        )

    def _require_its_name(self) -> None:
        found = _identity(self.name.stat(), (self.name / DATA).stat())
        if found != self._identity:
            raise StoreUnusable(self._other_store())

    def misplacement(self) -> str | None:
        """
        Return why the next worker would not open this store by its name, or C{None}.

        The first time, and when the store is back, a line is logged.
        """
        problem = None
        try:
            self._require_its_name()
        except OSError as error:
            problem = f"the store {self.name} was moved away ({error.strerror})"
        except StoreUnusable as error:
            problem = str(error)
        if problem != self._problem:
            if problem is None:
                self._log.info("the store {name} is back", name=self.name)
            else:
                self._log.error("{problem}; steps are refused", problem=problem)
        self._problem = problem
        return problem

    def set_aside(self, length: int) -> None:
        """
        Take the disk space for C{length} bytes of the store's file, including its holes.

        The size and the content of the file stay as they are.  If the file system cannot do
        that, this method only checks that there is so much space.

        @raise OSError: there is not so much space.
        """
        # os.posix_fallocate would make the file longer, and a file that was cut short
        # should be seen to be.
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(DATA, os.O_RDWR, dir_fd=self._descriptor)
        try:
            offset, until = ctypes.c_long(0), ctypes.c_long(length)
            if not libc.fallocate(descriptor, _KEEP_SIZE, offset, until):
                return
            error = ctypes.get_errno()
            if error in _CANNOT:
                disk, has = os.fstatvfs(descriptor), os.fstat(descriptor).st_blocks * 512
                if disk.f_bavail * disk.f_frsize >= length - has:
                    return
                error = errno.ENOSPC
        finally:
            os.close(descriptor)
        raise OSError(error, os.strerror(error))

    def file_system(self) -> os.statvfs_result:
        """
        Return the statistics of the owned directory's file system.
        """
        return os.fstatvfs(self._descriptor)

    def holds_a_store(self) -> bool:
        """
        Return whether the directory holds a store.

        @raise StoreMissing: it has lost the store that this service has served.
        @raise StoreDamaged: it holds part of one.
        @raise StoreUnusable: it holds something else, and must stay untouched.
        """
        try:
            names = {entry.name for entry in self.path.iterdir()} - _OTHERS
        except OSError as error:
            raise StoreUnusable(f"the store {self.path}: {error.strerror}") from error
        for name in names & {DATA, LOCK, WITNESS}:
            # Opening a FIFO would wait for ever.
            if not (self.path / name).is_file():
                raise StoreUnusable(
                    f"the store {self.path} cannot be opened: {name} is not a regular file"
                )
        if DATA in names:
            return True
        if names & {LOCK, WITNESS}:
            if self._is_claimed:
                # An operator may be moving the files, one after the other.
                self._require_creation()
            raise StoreDamaged(f"the store {self.path} has lost its file {DATA}")
        if names - {NURSERY}:
            raise StoreUnusable(
                f"the directory {self.path} holds something else"
                f" ({min(names - {NURSERY})}); give the store a directory of its own"
            )
        return False

    def create_store(self, make: Callable[[Path], None]) -> None:
        """
        Put the first store in place, durably, where there is none.

        @param make: as for L{install}.
        @raise StoreMissing: no store may be created here.
        @raise StoreUnusable: the store could not be made.
        """
        self._require_creation()
        self.install(make)
        self._log.warn(
            "created a new store in {path}: its cursor is at revision 0, position 0",
            path=self.path,
        )

    def install(self, make: Callable[[Path], None]) -> None:
        """
        Put a new store in place, durably.

        @param make: makes a store in the directory that it is given.
        @raise StoreUnusable: the store could not be made.
        """
        nursery = self.path / NURSERY
        try:
            self.tidy()
            # The process that made the directory may have failed to do this.
            sync(self.path.parent)
            if self.path.stat().st_uid == os.geteuid():
                self.path.chmod(0o700)
            nursery.mkdir(0o700)
            make(nursery)
            sync(nursery)
            (nursery / DATA).rename(self.path / DATA)
            sync(self.path)
            self._installed = True
            shutil.rmtree(nursery)
        except OSError as error:
            raise StoreUnusable(
                f"the store {self.path} cannot be made: {error.strerror}"
            ) from error

    def tidy(self) -> None:
        """
        Remove what an interrupted L{install} left.
        """
        nursery = self.path / NURSERY
        if nursery.exists():
            # A store may have been put in place, and not yet durably.
            sync(self.path)
            shutil.rmtree(nursery)
