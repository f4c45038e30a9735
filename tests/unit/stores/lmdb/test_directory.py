"""
The directory of a store: its file system, its owner, and its durability.
"""

from __future__ import annotations

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb import directory
from pexservice.stores.lmdb.directory import DATA, NURSERY, Directory, file_system_type
from tests.support.daemon import PATIENCE, patiently

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
24 23 8:2 / /home/local rw master:3 - xfs /dev/sda2 rw
25 22 0:41 / /with\040space rw - cifs //server/share rw
26 22 0:42 / /twice rw - nfs server:/a rw
27 26 8:3 / /twice rw - btrfs /dev/sda3 rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/pexservice", "ext4"),
        ("/home/somebody/data", "nfs4"),
        ("/homely", "ext4"),
        ("/home/local/data", "xfs"),
        ("/with space/data", "cifs"),
        ("/twice/data", "btrfs"),
    ],
)
def test_file_system_type(path: str, kind: str) -> None:
    """
    The longest mount point above a path decides, and among equal ones the latest.
    """
    assert file_system_type(Path(path), MOUNTS) == kind


@pytest.mark.needs("mount table")
def test_of_this_machine(tmp_path: Path) -> None:
    """
    The machine's own mount table is understood.
    """
    assert file_system_type(tmp_path) != "unknown"


def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A network file system is refused by its name, and nothing is made on it.
    """
    monkeypatch.setattr(directory, "file_system_type", lambda _: "nfs4")
    with pytest.raises(StoreUnusable, match=r"network file system \(nfs4\)"):
        Directory(str(tmp_path / "store")).own()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A directory that cannot be locked is refused with the reason.

    The directory is refused although no other process owns it.
    """

    def failing(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("pexservice.stores.lmdb.directory.fcntl.flock", failing)
    with pytest.raises(StoreUnusable, match=r"store cannot be locked: No locks available"):
        Directory(str(tmp_path / "store")).own()


@pytest.mark.parametrize("replaced", [True, False])
def test_replaced_while_waiting_for_it(tmp_path: Path, *, replaced: bool) -> None:
    """
    A process that waits to own a directory is refused if the directory loses its name.

    The directory loses its name during the wait, to another directory or to none.
    """
    path = tmp_path / "store"
    owner = Directory(str(path))
    owner.own()
    waiting = Directory(str(path))
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(waiting.own, wait=True)
        for _ in patiently():
            if _opened(path) == 2:
                break
        path.rename(tmp_path / "away")
        if replaced:
            path.mkdir()
        owner.release()
        with pytest.raises(StoreUnusable, match=f"{path} was replaced"):
            waits.result(PATIENCE)
    assert _opened(tmp_path / "away") == 0


def _opened(path: Path) -> int:
    """
    Return how many file descriptors this process has of C{path}.
    """
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += each.samefile(path)
    return found


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """
    Provide the list of directories that were made durable; the first three attempts fail.
    """
    done: list[Path] = []
    failures = iter(range(3))

    def sync(path: Path) -> None:
        if next(failures, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(path)

    monkeypatch.setattr(directory, "sync", sync)
    return done


def test_a_later_start_makes_the_store_durable(tmp_path: Path, synced: list[Path]) -> None:
    """
    A start makes a directory or a store durable when an earlier start failed to do so.

    The earlier start made the directory or the store, but did not make it durable.  An
    answer would be lost with a directory that a power cut undoes.
    """
    path = tmp_path / "store"

    def make(nursery: Path) -> None:
        (nursery / DATA).write_text("a store")

    made = Directory(str(path))
    with pytest.raises(StoreUnusable, match="Input/output error"):
        made.own()
    assert path.is_dir()
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="cannot be made: Input/output error"):
            made.install(make)
    assert synced == []
    made.install(make)
    assert synced == [tmp_path, path / NURSERY, path]

    # The same for a store that is in place, but whose rename is not durable.
    (path / NURSERY).mkdir()
    made.tidy()
    assert synced[3:] == [path]
    assert [each.name for each in path.iterdir()] == [DATA]
    made.tidy()
    assert synced[4:] == []


@pytest.mark.parametrize("free", [0, 1])
def test_room_where_none_can_be_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """
    A file system that cannot set room aside has enough if as much is free.
    """

    class Library:
        def fallocate(self, *_: object) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    owner = Directory(str(tmp_path))
    owner.own()
    (tmp_path / DATA).write_bytes(bytes(4096))
    disk = os.statvfs(tmp_path)
    values = {name: getattr(disk, name) for name in ("f_bavail", "f_frsize")}
    values["f_bavail"] = free
    monkeypatch.setattr(os, "fstatvfs", lambda _: SimpleNamespace(**values))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library())
    wanted = 4096 + disk.f_frsize
    if free:
        owner.set_aside(wanted)
    else:
        with pytest.raises(OSError, match="No space left"):
            owner.set_aside(wanted)
    owner.release()
