"""
The directory of a store: its file system, its owner, and its durability.
"""

from __future__ import annotations

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, call

import pytest

from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import StoreBusy, StoreError
from pexservice.stores.lmdb import directory, file_system
from pexservice.stores.lmdb.directory import DATA_FILE, STAGING_DIRECTORY, Directory
from pexservice.stores.lmdb.file_system import file_system_type
from tests.support.daemon import TIMEOUT_SECONDS, poll_attempts


def make(staging: Path) -> None:
    """
    Make something that L{Directory} takes for a store.
    """
    (staging / DATA_FILE).write_text("a store")


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
24 23 8:2 / /home/local rw master:3 - xfs /dev/sda2 rw
25 22 0:41 / /with\040space rw - cifs //server/share rw
25 22 0:41 / /mnt/données rw - nfs //server/share rw
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
        ("/mnt/données/data", "nfs"),
        ("/twice/data", "btrfs"),
    ],
)
def test_deepest_and_latest_mount_point_decides_the_file_system(
    path: str, kind: str
) -> None:
    assert file_system_type(Path(path), MOUNTS) == kind


@pytest.mark.needs("mount table")
def test_mount_table_of_this_machine_is_parsed(tmp_path: Path) -> None:
    assert file_system_type(tmp_path) != "unknown"


def test_network_file_system_is_refused_by_its_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nothing is made on it.
    """
    monkeypatch.setattr(file_system, "file_system_type", lambda _: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\)"):
        Directory(str(path)).lock()
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_locked_is_refused_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No other process owns it.
    """
    failing = Mock(side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)))
    monkeypatch.setattr("pexservice.stores.lmdb.directory.fcntl.flock", failing)
    with pytest.raises(StoreError, match=r"store cannot be locked: No locks available"):
        Directory(str(path)).lock()


@pytest.mark.parametrize("name", [DATA_FILE, "."])
def test_store_that_is_not_writable_is_not_openable(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path.mkdir()
    (path / DATA_FILE).touch()
    monkeypatch.setattr(os, "access", lambda file, _: file != path / name)
    with pytest.raises(StoreError, match=f"cannot be used: {path / name} is not writable"):
        Directory(str(path)).check_openable()


@pytest.mark.parametrize("replaced", [True, False])
def test_directory_replaced_during_the_wait_for_its_lock_is_refused(
    path: Path, tmp_path: Path, *, replaced: bool
) -> None:
    """
    By another directory or by none.
    """
    holder, waiting = Directory(str(path)), Directory(str(path))
    holder.lock()
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(waiting.lock, wait=True)
        for _ in poll_attempts():
            if _opened(path) == 2:
                break
        path.rename(tmp_path / "away")
        if replaced:
            path.mkdir()
        holder.unlock()
        with pytest.raises(StoreError, match=f"{path} was moved or replaced"):
            waits.result(TIMEOUT_SECONDS)
    assert _opened(tmp_path / "away") == 0


def _opened(path: Path) -> int:
    """
    Return how many file descriptors this process has of C{path}.
    """
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += descriptor.samefile(path)
    return count


def test_a_later_start_makes_the_store_durable(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A start makes a directory or a store durable when an earlier start failed to do so.

    The earlier start made the directory or the store, but did not make it durable.  An
    answer would be lost with a directory that a power cut undoes.
    """
    failing = OSError(errno.EIO, os.strerror(errno.EIO))
    sync = Mock(side_effect=[failing, failing, failing, None, None, None, None])
    monkeypatch.setattr(directory, "sync_directory", sync)
    store = Directory(str(path))
    with pytest.raises(StoreError, match="Input/output error"):
        store.lock()
    assert path.is_dir()
    store.lock()
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be made: Input/output error"):
            store.replace_store(make)
    sync.reset_mock()
    store.replace_store(make)
    assert sync.mock_calls == [call(tmp_path), call(path / STAGING_DIRECTORY), call(path)]

    # The same for a store that is in place, but whose rename is not durable.
    (path / STAGING_DIRECTORY).mkdir()
    sync.reset_mock()
    store.remove_staging()
    store.remove_staging()
    assert sync.mock_calls == [call(path)]
    assert [file.name for file in path.iterdir()] == [DATA_FILE]
    store.unlock()


def test_directory_stays_locked_until_the_thread_that_installs_a_store_has_ended(
    path: Path,
) -> None:
    """
    So no other process can lock it, although this one stops.
    """
    directory, other = (Directory(str(path)) for _ in range(2))

    def make_after_unlocking(staging: Path) -> None:
        directory.unlock()
        with pytest.raises(StoreBusy):
            other.lock()
        make(staging)

    directory.lock()
    directory.replace_store(make_after_unlocking)
    other.lock()
    other.unlock()


@pytest.fixture
def claim(board: int) -> StoreClaim:
    return StoreClaim(board)


def test_claim_follows_a_store_that_is_rewritten_even_after_the_worker_has_let_go_of_it(
    path: Path, claim: StoreClaim
) -> None:
    """
    Otherwise no worker of the service would open the rewritten store.
    """
    holder = Directory(str(path), claim=claim)

    def rewrite(staging: Path) -> None:
        holder.unlock()
        make(staging)

    holder.lock()
    assert holder.find_or_create_store(make)
    assert claim.identity() is None
    holder.location.claim_store()
    first = claim.identity()
    holder.replace_store(rewrite)
    assert claim.identity() not in (None, first)
    holder.lock()
    assert not holder.find_or_create_store(make)
    holder.location.claim_store()
    holder.unlock()


def test_claim_of_another_store_is_not_renewed(path: Path, claim: StoreClaim) -> None:
    """
    Two workers open two stores, because the operator switched a symbolic link.
    """
    holder = Directory(str(path), claim=claim)

    def make_while_another_worker_claims(staging: Path) -> None:
        make(staging)
        claim.take("1:2 1:3")

    holder.lock()
    assert holder.find_or_create_store(make_while_another_worker_claims)
    with pytest.raises(StoreError, match="another store was put in the place"):
        holder.location.claim_store()
    assert claim.identity() == "1:2 1:3"
    holder.unlock()


@pytest.mark.parametrize("free", [0, 1])
def test_file_system_that_cannot_allocate_has_enough_space_if_as_much_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:

    def fallocate(*_: object) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    holder = Directory(str(tmp_path))
    holder.lock()
    (tmp_path / DATA_FILE).write_bytes(bytes(4096))
    disk = SimpleNamespace(f_bavail=free, f_frsize=os.statvfs(tmp_path).f_frsize)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    library = SimpleNamespace(fallocate=fallocate)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    with nullcontext() if free else pytest.raises(OSError, match="No space left"):
        holder.allocate_data_file(4096 + disk.f_frsize)
    holder.unlock()
