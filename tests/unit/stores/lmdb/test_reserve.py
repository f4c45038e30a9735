"""
The room that a commit needs for its pages, and what happens when there is none.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent

from pexservice.stores.errors import Refusal, StoreError
from pexservice.stores.lmdb import reserve
from pexservice.stores.lmdb.databases import used_bytes
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.file_system import READER_TABLE_BYTES, READER_TABLE_FILE
from pexservice.stores.lmdb.opened_store import PATH_CHECK_INTERVAL_SECONDS
from pexservice.stores.lmdb.reserve import ALLOCATION_RETRY_SECONDS, RESERVE_BYTES
from tests.support.fakes import ABOVE_ALL, now
from tests.unit.stores.lmdb.test_store import at, filled, reader
from tests.unit.stores.test_contract import batch


class Disk:
    """
    The fake disk on which L{Directory.allocate_data_file} looks for room.

    @ivar free: bytes that a file may have; L{None} for as many as are wanted.
    @ivar error: the C{errno} that is raised when there are not.
    @ivar tries: how often room was asked for.
    """

    free: int | None = None
    error = errno.ENOSPC
    tries = taken = 0

    def allocate(self, length: int) -> None:
        """
        Take C{length} bytes of the fake disk, or raise its error.
        """
        self.tries += 1
        if self.free is not None and length > self.free:
            raise OSError(self.error, os.strerror(self.error))
        self.taken = length


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """
    Provide a disk with room.
    """
    disk = Disk()
    monkeypatch.setattr(Directory, "allocate_data_file", disk.allocate)
    return disk


def test_a_disk_that_is_full_at_the_start(path: Path, disk: Disk) -> None:
    """
    A store on a full disk can be read, and refuses batches without trying the disk.

    The store tries the disk again after a second, and takes batches if there is room.
    """
    clock = Clock()
    filled(path, 2)
    disk.free = 0
    with at(path, monotonic=clock.seconds) as store:
        tries = disk.tries
        for _ in range(3):
            with pytest.raises(Refusal, match=f"disk full: the store {path}"):
                store.step(b"n")
        assert str(store.commit_refusal()).startswith("disk full")
        assert len(now(store.history(ABOVE_ALL, 100))) == 8
        assert disk.tries == tries
        disk.free = None
        with pytest.raises(Refusal):
            store.step(b"n")
        assert store.commit_refusal() is not None
        clock.advance(ALLOCATION_RETRY_SECONDS)
        # A service that is not ready gets no step that would notice the free space.
        assert store.commit_refusal() is None
        store.step(b"n")
    assert store.commit_refusal() is None


def test_store_opens_only_if_the_disk_has_space_for_the_reader_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A backup has no reader table, and on a full disk the table would have a hole.

    LMDB's writing to the hole would end the process.
    """
    state = filled(path, 2)
    (path / READER_TABLE_FILE).unlink()
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=f"{path} cannot be used: No space"):
        now(at(path).open())
    monkeypatch.undo()
    with at(path) as store:
        assert store.state == state
        file_status = (path / READER_TABLE_FILE).stat()
        assert file_status.st_size == READER_TABLE_BYTES <= file_status.st_blocks * 512


def test_disk_that_fails_for_another_reason_is_not_called_full(
    path: Path, disk: Disk
) -> None:
    disk.free, disk.error = 0, errno.EIO
    message = "no space can be allocated.*Input/output error"
    with at(path) as store, pytest.raises(Refusal, match=message):
        store.step(b"n")


def test_commits_write_only_where_space_is_reserved(path: Path, disk: Disk) -> None:
    """
    No commit writes where nothing is set aside, and hardly any room is left unused.

    This holds even while a reader keeps every page from being used again.
    """
    filled(path, 500)
    disk.free = (path / "data.mdb").stat().st_size + RESERVE_BYTES
    with at(path) as store:
        begin, env = store.state.revision, store.opened.databases.env
        with reader(path) as pid:
            while store.commit_refusal() is None:
                with suppress(Refusal):
                    store.step(b"n", b"%d" % store.state.revision)
                assert used_bytes(env) <= disk.taken <= disk.free
            assert str(store.commit_refusal()).startswith("disk full")
            assert disk.free - used_bytes(env) < RESERVE_BYTES // 4
            assert store.oldest_reader() == (pid, store.state.revision - begin)
        assert store.oldest_reader() is None


@pytest.mark.parametrize("length", [8, 255])
def test_commit_adds_no_more_to_the_file_than_was_reserved(path: Path, length: int) -> None:
    """
    The bound holds also when as many keys go as come, while no page can be used again.
    """
    dice = random.Random(7)  # noqa: S311 nothing secret

    def fresh(count: int) -> list[bytes]:
        return [dice.randbytes(length).hex()[:length].encode() for _ in range(count)]

    with at(path, kept_transitions=2000, kept_keys=2000) as store:
        store.step(b"n" * 2000, *fresh(2000))
        env = store.opened.databases.env
        with reader(path):
            for size, key_count in (
                *((512, 512), (400_000, 0), (64, 64), (64, 64), (2, 2), (1, 0)),
                *((64, 64), (64, 64), (2, 2), (2, 2), (1, 1), (1, 0)),
            ):
                keys = fresh(key_count)
                max_growth = store.opened.prepare(batch(store.state, b"n" * size, *keys))
                before = used_bytes(env)
                store.step(b"n" * size, *keys)
                assert used_bytes(env) - before <= max_growth


def test_a_reader_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process whose reading lets the file grow is named in the log, once a minute.

    A process that has only just begun to read is not named.
    """
    monkeypatch.setattr(reserve, "READER_CHECK_BYTES", 1 << 20)
    monkeypatch.setattr(reserve, "MIN_READER_COMMITS", 300)
    clock = Clock()
    with (
        at(path, monotonic=clock.seconds) as store,
        capturedLogs() as events,
        reader(path) as pid,
    ):
        for commits, lines in ((200, 0), (400, 1), (400, 2)):
            for _ in range(commits):
                store.step(b"n")
            assert len(events) == lines
            assert {(event["pid"], event["path"]) for event in events} <= {(pid, path)}
            clock.advance(reserve.READER_LOG_INTERVAL_SECONDS * lines)


def test_full_map_names_the_reader_and_a_dead_reader_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    LMDB forgets the reader when one more batch was refused, and uses its pages again.
    """
    monkeypatch.setattr(reserve, "MAX_DISK_FRACTION", 0)
    with at(path, map_size=1 << 18) as store:

        def steps(count: int) -> None:
            for _ in range(count):
                store.step(b"n")

        with reader(path) as pid:
            with pytest.raises(
                Refusal, match=f"is full, and process {pid} has been reading it"
            ):
                steps(1000)
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(Refusal, match="is full"):
            store.step(b"n")
        steps(50)


def warnings_about_space(events: Sequence[LogEvent]) -> int:
    return sum("is nearly full" in formatEvent(event) for event in events)


def test_nearly_full_disk_causes_one_warning(path: Path, disk: Disk) -> None:
    """
    A store on a nearly full disk takes steps, and warns once before steps are refused.

    A store with its whole reserve does not warn.
    """
    filled(path, 2)
    size = (path / "data.mdb").stat().st_size
    for free, warnings in (
        (size + RESERVE_BYTES // 2, 1),
        (None, 0),
        (size + RESERVE_BYTES // 2, 1),
    ):
        disk.free = free
        with capturedLogs() as events, at(path) as store:
            for _ in range(3):
                store.step(b"n")
        assert warnings_about_space(events) == warnings


def test_disk_that_others_fill_is_reported_when_it_happens_and_once_each_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store has its reserve and does not grow, so no allocation fails.
    """
    file_system = SimpleNamespace(f_bavail=1 << 40, f_frsize=1, f_blocks=1 << 40)
    monkeypatch.setattr(Directory, "file_system_status", lambda _: file_system)
    clock = Clock()
    with at(path, monotonic=clock.seconds) as store, capturedLogs() as events:
        for free, warnings in (
            (10 * RESERVE_BYTES, 0),
            (RESERVE_BYTES - 1, 1),
            (RESERVE_BYTES - 2, 1),
            (RESERVE_BYTES, 1),
            (0, 2),
        ):
            file_system.f_bavail = free
            clock.advance(PATH_CHECK_INTERVAL_SECONDS)
            store.step(b"n")
            assert warnings_about_space(events) == warnings
        # Without steps, the check for readiness notices it.
        for free in (RESERVE_BYTES, 0):
            file_system.f_bavail = free
            clock.advance(PATH_CHECK_INTERVAL_SECONDS)
            assert store.commit_refusal() is None
        assert warnings_about_space(events) == 3
