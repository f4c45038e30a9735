"""
File systems whose power can be cut.

Each is in a file that a loop device mounts.  To cut the power, the tests call an interface
that file systems have for their own tests, C{FS_IOC_SHUTDOWN} without a flush of the log:
from that moment, nothing reaches the file any more, and everything that was not flushed is
lost.  The next mount recovers from the journal, as after a real power cut.  The loss of a
drive's write cache is not simulated.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Self

from attrs import define, frozen

from tests.support.commands import run_command
from tests.support.daemon import captured, wait_until

#: C{EXT4_IOC_SHUTDOWN} and C{XFS_IOC_GOINGDOWN} are the same number.
_SHUTDOWN = 0x8004587D

#: So are C{EXT4_GOING_FLAGS_NOLOGFLUSH} and C{XFS_FSOP_GOING_FLAGS_NOLOGFLUSH}.
_NOLOGFLUSH = struct.pack("I", 2)


@frozen
class Kind:
    """
    A kind of file system.

    @ivar make: the command that creates it, without the path of the file.
    @ivar options: the mount options.
    """

    name: str
    make: tuple[str, ...]
    options: str


#: A file system without blocks reserved for root.
UNRESERVED = Kind("ext4", ("mkfs.ext4", "-q", "-m", "0", "-b", "4096"), "defaults")

KINDS = (
    Kind("ext4, data=ordered", ("mkfs.ext4", "-q", "-b", "4096"), "data=ordered"),
    Kind("ext4, data=writeback", ("mkfs.ext4", "-q", "-b", "4096"), "data=writeback"),
    Kind("xfs", ("mkfs.xfs", "-q"), "defaults"),
)


@define
class Volume:
    """
    A file system in a file, mounted inside the C{with} block.

    @ivar path: the directory for the file and the mount point.
    @ivar size_bytes: by default, more than mkfs.xfs requires; the file is sparse.
    """

    path: Path
    kind: Kind
    size_bytes: int = 512 << 20

    @property
    def mount_point(self) -> Path:
        return self.path / "mounted"

    @property
    def _file(self) -> Path:
        return self.path / "file"

    def __enter__(self) -> Self:
        """
        Create the file system, and mount it.
        """
        self.mount_point.mkdir()
        with self._file.open("wb") as image:
            image.truncate(self.size_bytes)
        run_command(*self.kind.make, str(self._file))
        self._mount()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        # If the block has failed, its error must not be replaced by an error of unmounting.
        with suppress(*([] if error is None else [AssertionError])):
            self._unmount()
        self._file.unlink()

    def cut(self) -> None:
        """
        Simulate a power cut.
        """
        descriptor = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def recover(self) -> None:
        """
        Recover from a power cut.  No process may have a file open.
        """
        self._unmount()
        # A process with mounts of its own, such as another test, may have copied this one.
        # Until it ends, the kernel would mount the file system that was shut down.
        loop_devices = ("losetup", "--associated", str(self._file))
        wait_until(lambda: not run_command(*loop_devices), f"{self._file} is detached")
        self._mount()

    def _mount(self) -> None:
        options = f"loop,{self.kind.options}"
        run_command("mount", "-o", options, str(self._file), str(self.mount_point))

    def _unmount(self) -> None:
        umount = ["umount", str(self.mount_point)]
        # A process that was killed may need a moment to close its files.
        wait_until(lambda: not captured(umount).returncode, f"{self.mount_point} is free")
