"""
The room that a commit needs for its pages, and what happens when there is none.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import (
    ILogObserver,
    LogEvent,
    capturedLogs,
    formatEvent,
    globalLogPublisher,
)

from pexservice.stores.errors import Refusal, StoreError
from pexservice.stores.lmdb import reserve
from pexservice.stores.lmdb.databases import used_bytes
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.file_system import READER_TABLE_BYTES, READER_TABLE_FILE
from pexservice.stores.lmdb.reserve import ALLOCATION_RETRY_SECONDS, RESERVE_BYTES
from pexservice.stores.lmdb.store import PATH_CHECK_INTERVAL_SECONDS
from tests.support.fakes import ABOVE_ALL, now
from tests.unit.stores.lmdb.test_store import at, filled
from tests.unit.stores.test_contract import batch

#: A program that reads one state of a store as long as its standard input is open.
READER = """
import lmdb, sys
txn = lmdb.open(sys.argv[1], readonly=True, create=False).begin()
print("reads", flush=True)
sys.stdin.read()
"""


@contextmanager
def reader(path: Path) -> Iterator[int]:
    """
    Run a process that reads the state that the store in C{path} has now.

    @return: the id of the process.
    """
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reads\n"
        yield process.pid


class Disk:
    """
    The fake disk on which L{Directory.allocate_data_file} looks for room.

    @ivar free: bytes that a file may have; L{None} for as many as are wanted.
    @ivar error: the C{errno} that is raised when there are not.
    @ivar tries: how often room was asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free: int | None = None
        self.error = errno.ENOSPC
        self.tries = 0
        self.taken = 0
        monkeypatch.setattr(Directory, "allocate_data_file", self.allocate)

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
    return Disk(monkeypatch)


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, disk: Disk) -> None:
    """
    A store on a full disk can be read, and refuses batches without trying the disk.

    The store tries the disk again after a second, and takes batches if there is room.
    """
    path, clock = tmp_path / "store", Clock()
    state = filled(path, 2)
    disk.free = 0
    store = at(path, monotonic=clock.seconds)
    assert now(store.open()) == state
    tries = disk.tries
    for _ in range(3):
        with pytest.raises(Refusal, match=f"disk full: the store {path}"):
            now(store.commit(batch(state, b"n")))
    assert str(store.commit_refusal()).startswith("disk full")
    assert len(now(store.history(ABOVE_ALL, 100))) == 8
    assert disk.tries == tries
    disk.free = None
    with pytest.raises(Refusal):
        now(store.commit(batch(state, b"n")))
    clock.advance(ALLOCATION_RETRY_SECONDS)
    now(store.commit(batch(state, b"n")))
    assert store.commit_refusal() is None
    now(store.close())
    assert store.commit_refusal() is None


def test_query_of_the_shortage_notices_free_space_without_a_step(
    tmp_path: Path, disk: Disk
) -> None:
    """
    A service that is not ready gets no step that would notice the free space.
    """
    path, clock = tmp_path / "store", Clock()
    disk.free = 0
    store = at(path, monotonic=clock.seconds)
    now(store.open())
    disk.free = None
    assert store.commit_refusal() is not None
    clock.advance(ALLOCATION_RETRY_SECONDS)
    assert store.commit_refusal() is None
    now(store.commit(batch((0, 0), b"n")))
    now(store.close())


def test_store_opens_only_if_the_disk_has_space_for_the_reader_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A backup has no reader table, and on a full disk the table would have a hole.

    LMDB's writing to the hole would end the process.
    """
    path = tmp_path / "store"
    state = filled(path, 2)
    (path / READER_TABLE_FILE).unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=f"{path} cannot be used: .*No space"):
        now(at(path).open())
    monkeypatch.undo()
    store = at(path)
    assert now(store.open()) == state
    file_status = (path / READER_TABLE_FILE).stat()
    assert file_status.st_size == READER_TABLE_BYTES <= file_status.st_blocks * 512
    now(store.close())


def test_disk_that_fails_for_another_reason_is_not_called_full(
    tmp_path: Path, disk: Disk
) -> None:
    disk.free, disk.error = 0, errno.EIO
    store = at(tmp_path / "store")
    now(store.open())
    with pytest.raises(Refusal, match=r"no space can be allocated.*Input/output error"):
        now(store.commit(batch((0, 0), b"n")))
    now(store.close())


def test_commits_write_only_where_space_is_reserved(tmp_path: Path, disk: Disk) -> None:
    """
    No commit writes where nothing is set aside, and hardly any room is left unused.

    This holds even while a reader keeps every page from being used again.
    """
    path = tmp_path / "store"
    filled(path)
    disk.free = (path / "data.mdb").stat().st_size + RESERVE_BYTES
    store = at(path)
    state, env = now(store.open()), store._databases.env
    with reader(path) as pid:
        commits = 0
        while store.commit_refusal() is None:
            taken = batch(state, b"n", b"%d" % commits)
            with suppress(Refusal):
                now(store.commit(taken))
                state, commits = taken.after, commits + 1
            assert used_bytes(env) <= disk.taken <= disk.free
        assert str(store.commit_refusal()).startswith("disk full")
        assert disk.free - used_bytes(env) < RESERVE_BYTES // 4
        snapshot = store.oldest_reader()
        assert snapshot == (pid, commits)
    assert store.oldest_reader() is None
    now(store.close())


@pytest.mark.parametrize("length", [8, 255])
def test_commit_adds_no_more_to_the_file_than_was_reserved(
    tmp_path: Path, length: int
) -> None:
    """
    The bound holds also when as many keys go as come, while no page can be used again.
    """
    dice = random.Random(7)  # noqa: S311 nothing secret
    path = tmp_path / "store"
    store = at(path, journal=2000, kept_keys=2000)
    state, env = now(store.open()), store._databases.env
    assert store._reserve is not None

    def fresh(count: int) -> list[bytes]:
        return [dice.randbytes(length).hex()[:length].encode() for _ in range(count)]

    filling = batch(state, b"n" * 2000, *fresh(2000))
    now(store.commit(filling))
    state = filling.after
    with reader(path):
        for size, keys in (
            *((512, 512), (400_000, 0), (64, 64), (64, 64), (2, 2), (1, 0)),
            *((64, 64), (64, 64), (2, 2), (2, 2), (1, 1), (1, 0)),
        ):
            taken = batch(state, b"n" * size, *fresh(keys))
            needed = store._reserve.needed_bytes(taken)
            before = used_bytes(env)
            now(store.commit(taken))
            state = taken.after
            assert used_bytes(env) - before <= needed
    now(store.close())


def test_a_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process whose reading lets the file grow is named in the log, once a minute.

    A process that has only just begun to read is not named.
    """
    monkeypatch.setattr(reserve, "READER_CHECK_BYTES", 1 << 20)
    path, clock = tmp_path / "store", Clock()
    store = at(path, monotonic=clock.seconds)
    state = now(store.open())
    events: list[LogEvent] = []
    observe = cast(ILogObserver, events.append)

    def step(count: int) -> None:
        nonlocal state
        for _ in range(count):
            taken = batch(state, b"n")
            now(store.commit(taken))
            state = taken.after

    globalLogPublisher.addObserver(observe)
    try:
        with reader(path) as pid:
            step(500)
            assert events == []
            step(1000)
            (event,) = events
            assert (event["pid"], event["path"]) == (pid, path)
            clock.advance(reserve.READER_LOG_INTERVAL_SECONDS)
            step(1000)
            assert len(events) == 2
    finally:
        globalLogPublisher.removeObserver(observe)
    now(store.close())


def test_a_full_map_names_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The refusal of a full map names the process whose reading keeps pages from being free.
    """
    path = tmp_path / "store"
    monkeypatch.setattr("pexservice.stores.lmdb.reserve.MAX_DISK_FRACTION", 0)
    store = at(path, map_size=1 << 18)
    state = now(store.open())
    with reader(path) as pid:
        refusals: list[Refusal] = []
        while not refusals:
            taken = batch(state, b"n")
            try:
                now(store.commit(taken))
            except Refusal as refusal:
                refusals.append(refusal)
            else:
                state = taken.after
    assert f"is full, and process {pid} has been reading it for" in str(refusals[0])
    # The reader has let go of its pages: all but those of the last state are free.
    now(store.commit(batch(state, b"n")))
    now(store.close())


def test_nearly_full_disk_causes_one_warning(tmp_path: Path, disk: Disk) -> None:
    """
    A store on a nearly full disk takes steps, and warns once before steps are refused.

    A store with its whole reserve does not warn.
    """
    path = tmp_path / "store"
    filled(path, 2)
    size = (path / "data.mdb").stat().st_size
    for free, warnings in (
        (size + RESERVE_BYTES // 2, 1),
        (None, 0),
        (size + RESERVE_BYTES // 2, 1),
    ):
        disk.free = free
        store = at(path)
        with capturedLogs() as events:
            state = now(store.open())
            for _ in range(3):
                now(store.commit(batch(state, b"n")))
                state = batch(state, b"n").after
        now(store.close())
        logged_warnings = [
            formatEvent(event) for event in events if event["log_level"].name == "warn"
        ]
        assert (
            len([line for line in logged_warnings if "is nearly full" in line]) == warnings
        )


def test_disk_that_others_fill_is_reported_when_it_happens_and_once_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store has its reserve and does not grow, so no allocation fails.
    """
    file_system = SimpleNamespace(f_bavail=1 << 40, f_frsize=1, f_blocks=1 << 40)
    monkeypatch.setattr(Directory, "file_system", lambda _: file_system)
    clock = Clock()
    store = at(tmp_path / "store", monotonic=clock.seconds)
    state = now(store.open())
    with capturedLogs() as events:
        for free, warnings in (
            (10 * RESERVE_BYTES, 0),
            (RESERVE_BYTES - 1, 1),
            (RESERVE_BYTES - 2, 1),
            (RESERVE_BYTES, 1),
            (0, 2),
        ):
            file_system.f_bavail = free
            clock.advance(PATH_CHECK_INTERVAL_SECONDS)
            now(store.commit(batch(state, b"n")))
            state = batch(state, b"n").after
            lines = [formatEvent(event) for event in events]
            assert len([line for line in lines if "is nearly full" in line]) == warnings
        # Without steps, the check for readiness notices it.
        for free in (RESERVE_BYTES, 0):
            file_system.f_bavail = free
            clock.advance(PATH_CHECK_INTERVAL_SECONDS)
            assert store.commit_refusal() is None
        assert len([event for event in events if "nearly" in formatEvent(event)]) == 3
    now(store.close())
