"""
The file system below a store: its type, locks, space, and durable entries.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from pathlib import Path

from pexservice.process.children import supervisor_of
from pexservice.stores.errors import StoreError

#: LMDB's table of readers: which process reads which state of the store.  The content has a
#: meaning only while a process has the store open.
READER_TABLE_FILE = "lock.mdb"

#: The size of the table of readers, with LMDB's default of 126 readers.
READER_TABLE_BYTES = 8192

#: FALLOC_FL_KEEP_SIZE, of linux/falloc.h.
_KEEP_SIZE = 1

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


def describe_lock_holder(path: Path) -> str:
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
        # The line of a process that waits has "->" in the place of FLOCK.
        _, kind, _, _, pid, inode, *_ = line.split()
        if kind != "FLOCK" or inode != f"{device}:{status.st_ino}" or pid == "0":
            continue
        supervisor = supervisor_of(int(pid))
        if supervisor is None:
            return f"process {pid}"
        return f"process {pid}, whose supervisor is process {supervisor}"
    return "another process"


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

    LMDB maps the table into memory.  If its space were not allocated, and the disk became
    full, a write to the table would end this process by SIGBUS.

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


def refuse_network_file_system(path: Path) -> None:
    """
    Refuse the directory C{path} of a store if its locks would not be reliable.

    @param path: absolute and without symbolic links.
    @raise StoreError: C{path} is on a network file system.
    """
    kind = file_system_type(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"the store {path} is on a network file system ({kind}), where locks and memory"
            " maps are not reliable; put it on a local disk"
        )


def allocate(descriptor: int, length: int) -> None:
    """
    Allocate disk space for the first C{length} bytes of a file.

    The size and the content of the file stay as they are.  Some file systems cannot
    allocate; then this function only checks that there is enough free space.

    @raise OSError: there is not enough space.
    """
    # os.posix_fallocate would also extend the file.  Then the verification could not see
    # from the size of the file that its last pages are lost.
    libc = ctypes.CDLL(None, use_errno=True)
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
    raise OSError(error, os.strerror(error))
