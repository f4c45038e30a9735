"""
Short rations: disks, memory and clocks that belong to a test, and a disk that hangs.

The needs of each shortage stand next to it in L{tests.labs.resources.lab.SHORTAGES}.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import frozen

from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts, wait_until
from tests.support.needs import faketime_library, memory_controller


def _run(*command: str) -> None:
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert ended.returncode == 0, (command, ended.stderr)


@contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[Path]:
    """
    Mount an ext4 of its own on a file, without the blocks that are kept for root.

    @return: where it is mounted.
    """
    image, mounted = path / "disk.img", path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", str(image))
    _run("mount", "-o", "loop", str(image), str(mounted))
    try:
        yield mounted
    finally:
        # Lazily, should something of a test that failed still be there; with the
        # mount the loop device goes too.
        _run("umount", "--lazy", str(mounted))
        image.unlink()


def fill(disk: Path, leaving: int = 0) -> Path:
    """
    Take all the room there is on C{disk}, to the last block.

    @param leaving: how many bytes stay free.

    @return: the file that took it.
    """
    filler, size = disk / "filler", 1 << 20
    with filler.open("wb") as file:
        while size:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2
        file.truncate(file.tell() - leaving)
    left = os.statvfs(disk)
    assert left.f_bavail * left.f_frsize == leaving, left
    return filler


@frozen
class MemoryGroup:
    """
    A memory control group.

    @ivar limit: the name of the file with the limit.
    @ivar events: the name of the file that counts kills.
    """

    path: Path
    limit: str
    events: str

    def take_in(self, pid: int) -> None:
        """
        Count what C{pid} takes here, from now on.
        """
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """
        Return how many processes the kernel has ended here because memory was short.
        """
        words = (self.path / self.events).read_text().split()
        return int(words[words.index("oom_kill") + 1])


@contextmanager
def memory_group(mebibytes: int) -> Iterator[MemoryGroup]:
    """
    Provide a group with so much memory, of version 1 or 2, whichever there is.
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
        # The group can go when the last of its processes is buried.
        wait_until(lambda: not (path / "cgroup.procs").read_text(), "the group is empty")
        path.rmdir()


class Clock:
    """
    A wall clock of a test's own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump(0)

    def jump(self, hours: int) -> None:
        """
        Be so far ahead of the machine's clock, at once and for every process that looks.
        """
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{hours:+d}h\n")
        beside.rename(self._path)


@contextmanager
def own_clock(path: Path) -> Iterator[Clock]:
    """
    Have every process that is started meanwhile go by the clock of this test.

    The monotonic clock of the process is the machine's, as a wall clock that is set does
    not move that.
    """
    library = faketime_library()
    assert library is not None
    clock = Clock(path / "clock")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(library))
        environment.setenv("FAKETIME_TIMESTAMP_FILE", str(path / "clock"))
        environment.setenv("FAKETIME_NO_CACHE", "1")
        environment.setenv("FAKETIME_DISABLE_SHM", "1")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        yield clock


@contextmanager
def slow_flushes(pid: int, seconds: float) -> Iterator[None]:
    """
    Have each flush that the process begins hang for so long.
    """
    inject = f"inject=fdatasync,fsync:delay_enter={int(seconds * 1e6)}"
    command = ["strace", "-f", "-q", "-o", os.devnull, "-e", inject, "-p", str(pid)]
    tracer = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in poll_attempts():
            assert tracer.poll() is None, "strace could not be attached"
            if _traced(pid):
                break
        else:
            raise AssertionError("strace does not trace")
        yield
    finally:
        tracer.terminate()
        tracer.wait(TIMEOUT_SECONDS)


def _traced(pid: int) -> bool:
    """
    Return whether every thread of the process is traced.
    """
    return all(
        "TracerPid:\t0\n" not in (task / "status").read_text()
        for task in Path(f"/proc/{pid}/task").iterdir()
    )
