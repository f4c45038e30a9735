"""
File systems of the test's own whose power can be cut.

Each is in a file, mounted by a loop device.  The cut is the file systems' own way to
be tested (C{FS_IOC_SHUTDOWN} without a flush of the log): from that moment nothing
reaches the file any more, and what had not been flushed is gone with the mount.  The
next mount recovers by the journal, as after a real cut.  A loss of a drive's own cache is
not part of the cut.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import define, frozen

from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts

#: C{EXT4_IOC_SHUTDOWN} and C{XFS_IOC_GOINGDOWN} are one number.
_SHUTDOWN = 0x8004587D

#: C{EXT4_GOING_FLAGS_NOLOGFLUSH} and C{XFS_FSOP_GOING_FLAGS_NOLOGFLUSH} are one, too.
_NOLOGFLUSH = struct.pack("I", 2)

#: More than mkfs.xfs asks for; the file is sparse.  Bytes.
_SIZE = 512 << 20


@frozen
class Kind:
    """
    A kind of file system.

    @ivar make: the command that makes it, without the file.
    @ivar options: for mount.
    """

    name: str
    make: tuple[str, ...]
    options: str


KINDS = (
    Kind("ext4, data=ordered", ("mkfs.ext4", "-q", "-b", "4096"), "data=ordered"),
    Kind("ext4, data=writeback", ("mkfs.ext4", "-q", "-b", "4096"), "data=writeback"),
    Kind("xfs", ("mkfs.xfs", "-q"), "defaults"),
)


@define
class Volume:
    """
    A file system in a file, mounted from entering to leaving.

    @ivar path: an empty directory for the file and the mount point.
    """

    path: Path
    kind: Kind

    @property
    def point(self) -> Path:
        """
        Return where the file system is mounted.
        """
        return self.path / "mounted"

    @property
    def _file(self) -> Path:
        return self.path / "file"

    def __enter__(self) -> Self:
        """
        Make the file system, and mount it.
        """
        self.point.mkdir()
        with self._file.open("wb") as image:
            image.truncate(_SIZE)
        _run(*self.kind.make, str(self._file))
        self._mount()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        # An error from before must not be hidden by one of unmounting.
        with suppress(*([] if error is None else [AssertionError])):
            self._unmount()
        self._file.unlink()

    def cut(self) -> None:
        """
        Make the power fail.
        """
        descriptor = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def recover(self) -> None:
        """
        Bring the power back.  No process may have a file open.
        """
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", f"loop,{self.kind.options}", str(self._file), str(self.point))

    def _unmount(self) -> None:
        message = b""
        for _ in poll_attempts():
            # A process that was killed may take a moment to let go.
            ended = subprocess.run(
                ["umount", str(self.point)],  # noqa: S607 wherever it is
                check=False,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
            )
            if not ended.returncode:
                return
            message = ended.stderr
        raise AssertionError(f"{self.point} stays mounted: {message.decode()}")


def _run(*command: str) -> None:
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert not ended.returncode, f"{' '.join(command)}: {ended.stderr}"
