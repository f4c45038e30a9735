"""
Shortages of the machine, each tried on a complete service under load.

They concern the disk, the memory, the descriptors and the clock.

C{python -m tests.labs.resources.lab [ROUNDS]} tries all shortages several times; the tests
try each one once.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from select import select

import lmdb
import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE
from tests.labs.power_cuts.volumes import UNRESERVED, Volume
from tests.support.clients import kept, load, surprises, until_acknowledged
from tests.support.daemon import (
    TIMEOUT_SECONDS,
    Daemon,
    alive,
    poll_attempts,
    wait_until,
    wait_until_gone,
)
from tests.support.evidence import record
from tests.support.needs import faketime_library, memory_controller
from tests.support.strace import slow_flushes


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


@contextmanager
def memory_group(mebibytes: int) -> Iterator[tuple[Path, Path]]:
    """
    Provide a control group with this limit, of version 1 or 2.

    @return: the file that adds a process to the group, and the file that counts kills.
    """
    controller = memory_controller()
    assert controller is not None
    root, version = controller
    if version == 1:
        limit, events = "memory.limit_in_bytes", "memory.oom_control"
    else:
        limit, events = "memory.max", "memory.events"
        (root / "cgroup.subtree_control").write_text("+memory")
    path = root / f"pexservice-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    processes = path / "cgroup.procs"
    try:
        (path / limit).write_text(str(mebibytes << 20))
        yield processes, path / events
    finally:
        # The group can be removed when its last process has been reaped.
        wait_until(lambda: not processes.read_text(), "the group is empty")
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


MANY_CLIENTS = 32

#: How much more memory a worker may use, so that it has less than 64 MiB in all.
EXTRA_MEBIBYTES = 8

#: At most so many connections exceed L{EXTRA_MEBIBYTES}.
MAX_CONNECTIONS = 900

#: The watchdog's timeout while the clock jumps.
WATCHDOG_SECONDS = 6

#: How long a flush hangs.
FLUSH_SECONDS = 3.0

#: How many steps are made at most while flushes hang.
MAX_HANGING_STEPS = 10


def full_disk(path: Path) -> int:
    """
    Fill the disk with a file of another program while the service makes steps.

    The service must continue: its journal has a constant size, and its reserve has space
    for the pages of the next commits.  After a restart on the full disk, it must have all
    acknowledged steps, and take more.
    """
    with Volume(path, UNRESERVED, 64 << 20) as volume:
        disk = volume.mount_point
        store = ("--store", f"lmdb:{disk}/store", "--journal", "1000")
        with Daemon(path, *store) as daemon, load(daemon, 2, keys=False) as few_clients:
            # The journal is replaced several times, and so gets all pages that these few
            # clients need.
            until_acknowledged(few_clients, 5000)
            fill(disk)
            with load(daemon, MANY_CLIENTS, keys=False) as many_clients:
                until_acknowledged(many_clients, 10_000)
        with Daemon(path, *store) as daemon:
            # While a process reads, LMDB reuses no page.
            with lmdb.open(f"{disk}/store", readonly=True) as reader, reader.begin():
                for _ in range(50):
                    daemon.step("previous")
            clients = few_clients + many_clients
            acknowledged = kept(daemon, clients, forgets=True)
            with load(daemon, MANY_CLIENTS, keys=False) as other_clients:
                until_acknowledged(other_clients)
            assert os.statvfs(disk).f_bavail == 0
            return acknowledged + kept(daemon, other_clients, forgets=True)


def no_space_to_grow(path: Path) -> int:
    """
    Fill the disk before the journal has reached its limit.

    The service must try no commit that could fail for lack of space, so a refused step is
    surely not made.  Reads must continue.  The same holds for a worker that starts later or
    takes over.  When space is free again, steps must continue without a restart.
    """
    with Volume(path, UNRESERVED, 32 << 20) as volume:
        disk = volume.mount_point
        store = ("--store", f"lmdb:{disk}/store", "--journal", "10000000")
        with Daemon(path, *store) as daemon:
            daemon.until_up()
            filler = fill(disk, leaving=1 << 19)
            with load(daemon) as clients:
                _until_full(daemon, disk)
                assert surprises(clients)
                daemon.kill_active_worker()
                daemon.until_logged("serves", 2)
                _until_full(daemon, disk)
        with Daemon(path, *store) as daemon:
            _until_full(daemon, disk)
            with load(daemon, keys=False) as other_clients:
                filler.unlink()
                until_acknowledged(other_clients)
            assert daemon.request("/readyz")[0].status == 200
            assert "ended with status 74" not in daemon.log.read_text()
            return kept(daemon, clients + other_clients, expected_problem="disk full")


def _until_full(daemon: Daemon, disk: Path) -> None:
    """
    Make steps until the service refuses one because the disk is full.

    Then check that the service is not ready, and that reads continue.
    """
    # While a process reads, LMDB reuses no page.
    with lmdb.open(f"{disk}/store", readonly=True) as reader, reader.begin():
        for _ in poll_attempts():
            # A single step needs less space than a batch.
            response, body = daemon.request("/next", "POST")
            if response.status != 200:
                break
    assert response.status == 503
    assert b"disk full" in body
    assert b"nothing was moved" in body
    ready, body = daemon.request("/readyz")
    assert (ready.status, b"disk full" in body) == (503, True)
    for page in ("/current", "/history?limit=1", "/livez"):
        assert daemon.request(page)[0].status == 200


def long_reader(path: Path) -> int:
    """
    Read one state of the store in a process that does not continue.

    The log and the metrics must name this process.  The store grows, and takes every step.
    When the process has ended, the store must not grow any more.
    """
    metric = b"\npexservice_store_oldest_snapshot_commits{"
    with Daemon(path) as daemon:
        with load(daemon) as clients:
            with lmdb.open(str(path / STORE), readonly=True) as reader, reader.begin():
                daemon.wait_for_log(
                    rf"process {os.getpid()} has been reading the store {path}/"
                )
                text = daemon.request("/metrics")[1]
                assert metric + b'pid="%d"}' % os.getpid() in text
            # Now the store grows by a page only rarely.
            grown = (path / STORE / DATA_FILE).stat().st_size
            until_acknowledged(clients)
            assert (path / STORE / DATA_FILE).stat().st_size < grown + (1 << 20)
            assert metric not in daemon.request("/metrics")[1]
        return kept(daemon, clients, forgets=True)


def no_descriptors(path: Path) -> int:
    """
    Let the supervisor open no more file descriptors.

    The standby must take over, and no other worker can start.  When the limit is raised
    again, a worker must start.
    """
    with Daemon(path) as daemon:
        daemon.until_up()
        with load(daemon) as clients:
            supervisor = daemon.process.pid
            limit = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
            used = {
                int(descriptor.name)
                for descriptor in Path(f"/proc/{supervisor}/fd").iterdir()
            }
            lowest = min(set(range(len(used) + 1)) - used)
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (lowest, limit[1]))
            daemon.kill_active_worker()
            daemon.until_logged("serves", 2)
            daemon.wait_for_log("cannot start worker-[0-9]+: .*Too many open files")
            until_acknowledged(clients)
            assert daemon.count_logged("is process") == 2
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limit)
            daemon.until_logged("stands by", 2)
            daemon.kill_active_worker()
            daemon.until_logged("serves", 3)
            until_acknowledged(clients)
        return kept(daemon, clients)


def out_of_memory(path: Path) -> int:
    """
    Make the worker exceed its limit of memory, so that the kernel kills it.

    Many connections with large incomplete heads use the memory.  The standby must take
    over.
    """
    head = (
        b"POST /next HTTP/1.1\r\nHost: localhost\r\n" + b"Name: %b\r\n" % (b"x" * 200) * 70
    )
    with (
        memory_group(EXTRA_MEBIBYTES) as (processes, events),
        Daemon(path) as daemon,
        ExitStack() as crowd,
    ):
        daemon.until_up()
        with load(daemon) as clients:
            until_acknowledged(clients)
            name, pid = daemon.active_worker()
            processes.write_text(str(pid))
            for _ in range(MAX_CONNECTIONS):
                if not alive(pid):
                    break
                connection = crowd.enter_context(
                    socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)
                )
                # The kernel may kill the worker meanwhile.
                with suppress(ConnectionError):
                    connection.sendall(head)
            wait_until_gone(pid)
            assert "oom_kill 1" in events.read_text()
            crowd.close()
            daemon.until_logged("serves", 2)
            until_acknowledged(clients)
        daemon.wait_for_log(f"{name} ended by SIGKILL")
        return kept(daemon, clients)


def jumping_clock(path: Path) -> int:
    """
    Set the wall clock one hour ahead, one hour back, and to the right time.

    Steps must continue in order, the history must have the times of the clock, and the
    watchdog must not replace a worker.
    """
    with (
        settable_clock(path) as set_clock_ahead,
        Daemon(path, "--watchdog", str(WATCHDOG_SECONDS)) as daemon,
    ):
        daemon.until_up()
        with load(daemon) as clients:
            for hours in (1, -1, 0):
                set_clock_ahead(hours)
                _check_clock(daemon, timedelta(hours=hours))
                # This is long enough for the watchdog.
                end = time.monotonic() + WATCHDOG_SECONDS
                while time.monotonic() < end:
                    until_acknowledged(clients, 100)
        assert (daemon.count_logged("serves"), daemon.count_logged("is process")) == (1, 2)
        assert "silent" not in daemon.log.read_text()
        return kept(daemon, clients)


def _check_clock(daemon: Daemon, ahead: timedelta) -> None:
    """
    Check that a new step is in the history with the time of a clock that is so far ahead.
    """
    before = datetime.now(UTC)
    revision = daemon.step("next", {"Idempotency-Key": f"ahead-{ahead.total_seconds()}"})
    after = datetime.now(UTC)
    page = f"/history?limit=1&before={revision + 1}"
    (row,) = json.loads(daemon.request(page, headers={"Accept": "application/json"})[1])[
        "transitions"
    ]
    assert row["revision"] == revision
    # The history truncates to microseconds.
    time = datetime.fromisoformat(row["time"]) + timedelta(microseconds=1)
    assert before <= time - ahead <= after + timedelta(microseconds=1)


def hanging_disk(path: Path) -> int:
    """
    Make flushes hang for seconds.

    A hanging flush must delay only the step that waits for it.  Reads and heartbeats
    continue, and reads show the last durable state.
    """
    with Daemon(path, "--watchdog", "30") as daemon:
        daemon.until_up()
        _, pid = daemon.active_worker()
        with slow_flushes(pid, FLUSH_SECONDS), ExitStack() as connections:
            # The first flush hangs in the reactor's thread.  After it, commits use another
            # thread.
            revision, reads = daemon.step(), 0
            # On a busy machine, this process may not run during a flush.
            while reads < 10 and revision < MAX_HANGING_STEPS:
                step = connections.enter_context(
                    socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)
                )
                step.sendall(b"POST /next HTTP/1.0\r\n\r\n")
                while not select([step], [], [], 0)[0]:
                    response, _ = daemon.request("/current")
                    live, _ = daemon.request("/livez")
                    assert (response.status, live.status) == (200, 200)
                    # The last reads may have arrived after the flush.
                    reads += int(response.headers["Pex-Revision"]) == revision
                revision += 1
                assert b"\r\nPex-Revision: %d\r\n" % revision in step.recv(1000)
        assert reads >= 10
        assert daemon.count_logged("is process") == 2
    return revision


def hung_disk(path: Path) -> int:
    """
    Make a flush hang for longer than the watchdog's timeout.

    The worker must be replaced, and the next one continues.
    """
    with Daemon(path, "--watchdog", "1") as daemon:
        daemon.until_up()
        with load(daemon) as clients:
            until_acknowledged(clients)
            name, pid = daemon.active_worker()
            with slow_flushes(pid, 10 * TIMEOUT_SECONDS):
                daemon.wait_for_log(f"no heartbeat from {name} for .* s; killing it")
                daemon.wait_for_log(rf"{name} \w+: Fatal Python error: Aborted")
                # strace keeps the process until it detaches.
            daemon.until_logged("serves", 2)
            until_acknowledged(clients)
            assert not alive(pid)
        return kept(daemon, clients)


#: The shortages, and what each one needs; see L{tests.support.needs}.
SHORTAGES: Mapping[Callable[[Path], int], Sequence[str]] = {
    full_disk: ("root", "mounts", "mkfs.ext4"),
    no_space_to_grow: ("root", "mounts", "mkfs.ext4"),
    long_reader: (),
    no_descriptors: (),
    out_of_memory: ("root", "memory controller"),
    jumping_clock: ("faketime",),
    hanging_disk: ("root", "strace"),
    hung_disk: ("root", "strace"),
}


def main() -> None:
    """
    Try all shortages so often.
    """
    shortage_count = acknowledged = 0
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        for shortage in SHORTAGES:
            with tempfile.TemporaryDirectory() as path:
                acknowledged += shortage(Path(path))
            shortage_count += 1
            print(f"{shortage.__name__}: {acknowledged:,} steps acknowledged", flush=True)
        record_result(shortage_count, acknowledged)


def record_result(shortage_count: int, acknowledged: int) -> None:
    record(
        "resources",
        promise="A full or hanging disk, a lack of descriptors or memory, and a wall"
        " clock that jumps delay steps only while they last, and lose none.",
        size=shortage_count,
        unit="shortages",
        result=f"{acknowledged:,} steps acknowledged meanwhile, 0 lost, 0 connections"
        " refused",
    )


if __name__ == "__main__":
    main()
