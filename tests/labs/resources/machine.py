"""
Small disks, limited memory, and a clock that a test can set.

L{tests.labs.resources.lab.SHORTAGES} names what each of them needs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.support.commands import run_command
from tests.support.daemon import wait_until
from tests.support.needs import faketime_library, memory_controller


@contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[Path]:
    """
    Create an ext4 file system in a file, without blocks reserved for root, and mount it.

    @return: the mount point.
    """
    image, mounted = path / "disk.img", path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    run_command("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", str(image))
    run_command("mount", "-o", "loop", str(image), str(mounted))
    try:
        yield mounted
    finally:
        # Lazily, because processes of a failed test may still use it.  The loop device is
        # removed with the mount.
        run_command("umount", "--lazy", str(mounted))
        image.unlink()


def fill(disk: Path, leaving: int = 0) -> Path:
    """
    Fill the disk to the last block.

    @param leaving: how many bytes stay free.
    @return: the file that fills the disk.
    """
    filler, size = disk / "filler", 1 << 20
    with filler.open("wb") as file:
        while size:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2
        file.truncate(file.tell() - leaving)
    free = os.statvfs(disk)
    assert free.f_bavail * free.f_frsize == leaving, free
    return filler


@frozen
class MemoryGroup:
    """
    A control group that limits memory.

    @ivar limit: the name of the file with the limit.
    @ivar events: the name of the file that counts kills.
    """

    path: Path
    limit: str
    events: str

    def add_process(self, pid: int) -> None:
        """
        Limit the memory that C{pid} uses from now on.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """
        Return how many processes of the group the kernel has killed for lack of memory.
        """
        words = (self.path / self.events).read_text().split()
        return int(words[words.index("oom_kill") + 1])


@contextmanager
def memory_group(mebibytes: int) -> Iterator[MemoryGroup]:
    """
    Provide a control group with this limit, of version 1 or 2.
    """
    controller = memory_controller()
    assert controller is not None
    root, version = controller
    if version == 1:
        limit, events = "memory.limit_in_bytes", "memory.oom_control"
    else:
        limit, events = "memory.max", "memory.events"
    path = root / f"pexservice-test-{os.getpid()}-{time.monotonic_ns()}"
    if version != 1:
        (root / "cgroup.subtree_control").write_text("+memory")
    path.mkdir()
    try:
        group = MemoryGroup(path, limit, events)
        (path / limit).write_text(str(mebibytes << 20))
        yield group
    finally:
        # The group can be removed when its last process has been reaped.
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
        path.rmdir()


@contextmanager
def settable_clock(path: Path) -> Iterator[Callable[[int], None]]:
    """
    Let all processes that start inside the block use the clock of this test.

    @return: a function that sets the clock so many hours ahead of the machine's, at once
        and for all processes.

    Their monotonic clock stays the machine's, because setting a wall clock does not change
    it.
    """
    library = faketime_library()
    assert library is not None

    def set_ahead(hours: int) -> None:
        (path / "clock.new").write_text(f"{hours:+d}h\n")
        (path / "clock.new").rename(path / "clock")

    set_ahead(0)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library))
        environment.setenv("FAKETIME_TIMESTAMP_FILE", str(path / "clock"))
        environment.setenv("FAKETIME_NO_CACHE", "1")
        environment.setenv("FAKETIME_DISABLE_SHM", "1")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield set_ahead
