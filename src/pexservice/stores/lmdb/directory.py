"""
A directory that one process owns, and that holds a whole store or none.

The store is made beside its place and renamed into it, so a power cut while it is
made leaves either nothing or a store.  Ownership is an advisory lock on the
directory itself: the kernel lets go of it when the process dies, however it dies,
and no file is left to be mistaken for one.

The lock is on a directory, and names may be given to others: an operator who moves the
directory of a running service away and puts another in its place must not get two
processes that each own a store under the same name, or steps that are gone at the next
start.  So the name is compared with what is locked, and the file with what was opened.
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

from pexservice.stores.interface import StoreBusy, StoreDamaged, StoreUnusable

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


class Directory:
    """
    A directory that one process owns, and that holds a whole store or none.

    @ivar path: absolute, symbolic links resolved.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        # While the directory is not owned, one with which every call fails.
        self._descriptor = -1
        self._identity: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<Directory {self.path}>"

    def own(self) -> None:
        """
        Become the one process that uses this directory; make the directory if need be.

        @raise StoreBusy: another process owns it.
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
        _refuse_network(self.path)
        try:
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
            os.close(descriptor)
            raise StoreBusy(f"the store {self.path} is in use by another process") from None
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

    def _has_our_name(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
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

        So L{require_its_name} knows the file again.
        """
        found = os.stat(DATA, dir_fd=self._descriptor)
        self._identity = (found.st_dev, found.st_ino)

    def require_its_name(self) -> None:
        """
        Check that the store still has its name.

        @raise OSError: there is nothing under the store's name.
        @raise StoreUnusable: something else has that name, which the next process opens.
        """
        found = (self.path / DATA).stat()
        if (found.st_dev, found.st_ino) != self._identity:
            raise StoreUnusable(f"another store was put in the place of {self.path}")

    def make_lock_file(self) -> None:
        """
        Make LMDB's table of readers, or fill the holes in it.

        LMDB maps the table, and to touch a hole on a full disk would end this process by
        SIGBUS.

        @raise OSError: there is no room for the table.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(LOCK, flags, 0o600, dir_fd=self._descriptor)
        try:
            os.posix_fallocate(descriptor, 0, LOCK_SIZE)
        finally:
            os.close(descriptor)

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
            raise StoreDamaged(f"the store {self.path} has lost its file {DATA}")
        if names - {NURSERY}:
            raise StoreUnusable(
                f"the directory {self.path} holds something else"
                f" ({min(names - {NURSERY})}); give the store a directory of its own"
            )
        return False

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
