"""
Shortages of the machine, each tried on the whole service under load.

The shortages are of disk, memory, descriptors, a clock that can be trusted, and a disk that
answers.

C{python -m tests.labs.resources.lab [ROUNDS]} tries all of them again and again;
the tests try each once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from select import select

import lmdb

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE, both_are_up, wait_for
from tests.labs.failover.lab import count, serving, until
from tests.labs.resources.machine import (
    fill,
    memory_group,
    own_clock,
    slow_flushes,
    small_disk,
)
from tests.support.daemon import (
    TIMEOUT_SECONDS,
    Daemon,
    alive,
    poll_attempts,
    wait_until_gone,
)
from tests.support.evidence import Evidence, record
from tests.support.loads import kept, load, surprises, until_acknowledged

MANY = 32

#: The memory that a worker may take beyond what it has, so that it has less than 64.  MiB.
ROOM = 8

#: At most so many connections make a worker take more than L{ROOM}.
CROWD = 900

#: For a clock that jumps.  Seconds.
WATCHDOG = 6

#: A flush that hangs for a while.  Seconds.
HANGING = 3.0

#: How many steps are made meanwhile, at most.
MAX_HANGING_STEPS = 10


def full_disk(path: Path) -> int:
    """
    Have another program's file take the last block while the service steps.

    The service goes on.  Its records and its retention have a constant size, and there is
    room set aside for the pages that it needs more now and then.  On a disk that is still
    full it can be started again, has all that it told, and steps on.
    """
    with small_disk(path, 64) as disk:
        store = ("--store", f"lmdb:{disk}/store", "--journal", "1000")
        with Daemon(path, *store) as daemon, load(daemon, 2, keys=False) as few:
            # The history is replaced some times, and all the pages that it needs for
            # these few are there.
            until_acknowledged(few, 5000)
            fill(disk)
            with load(daemon, MANY, keys=False) as many:
                until_acknowledged(many, 10_000)
        with Daemon(path, *store) as daemon:
            # As long as a process reads, no page can be used again.
            with lmdb.open(f"{disk}/store", readonly=True) as reader, reader.begin():
                for _ in range(50):
                    assert daemon.request("/previous", "POST")[0].status == 200
            clients = few + many
            assert surprises(clients) == []
            acknowledged = kept(daemon, clients, forgets=True)
            with load(daemon, MANY, keys=False) as others:
                until_acknowledged(others)
            assert os.statvfs(disk).f_bavail == 0
            assert surprises(others) == []
            return acknowledged + kept(daemon, others, forgets=True)


def no_room_to_grow(path: Path) -> int:
    """
    Fill the disk before the history is full.

    No step is tried that might find no room, so a refused step surely never happened.  The
    worker goes on and its history is read.  The same holds for a worker that is started
    then, or takes over.  When there is room again the service goes on by itself.
    """
    with small_disk(path, 32) as disk:
        store = ("--store", f"lmdb:{disk}/store", "--journal", "10000000")
        with Daemon(path, *store) as daemon:
            both_are_up(daemon)
            filler = fill(disk, leaving=1 << 19)
            with load(daemon) as clients:
                _until_full(daemon, disk)
                assert surprises(clients)
                _kill(daemon)
                until(daemon, "serves", 2)
                _until_full(daemon, disk)
        with Daemon(path, *store) as daemon:
            _until_full(daemon, disk)
            with load(daemon, keys=False) as others:
                filler.unlink()
                until_acknowledged(others)
            assert daemon.request("/readyz")[0].status == 200
            refused = surprises(clients + others)
            assert all("disk full" in reason for reason in refused), set(refused)
            assert "ended with status 74" not in daemon.log.read_text()
            return kept(daemon, clients + others)


def _until_full(daemon: Daemon, disk: Path) -> None:
    """
    Step until the service takes no step for a full disk.

    Then check that the service is not ready, and can be read.
    """
    # As long as a process reads, no page can be used again.
    with lmdb.open(f"{disk}/store", readonly=True) as reader, reader.begin():
        for _ in poll_attempts():
            # A batch may need more than there is, and one step less.
            answer, body = daemon.request("/next", "POST")
            if answer.status != 200:
                break
    assert answer.status == 503
    assert b"disk full" in body
    assert b"nothing was moved" in body
    ready, body = daemon.request("/readyz")
    assert (ready.status, b"disk full" in body) == (503, True)
    for page in ("/current", "/history?limit=1", "/livez"):
        assert daemon.request(page)[0].status == 200


def long_reader(path: Path) -> int:
    """
    Have a process read one state of the store and stop.

    The process is named, in the log and among the metrics.  The store grows, and every step
    is taken.  When the process has ended the store grows no more.
    """
    metric = b"\npexservice_store_oldest_snapshot_commits{"
    with Daemon(path) as daemon, load(daemon) as clients:
        with lmdb.open(str(path / STORE), readonly=True) as reader, reader.begin():
            wait_for(daemon, rf"process {os.getpid()} has been reading the store {path}/")
            text = daemon.request("/metrics")[1]
            assert metric + b'pid="%d"}' % os.getpid() in text
        # The store rarely grows by a page now.
        grown = (path / STORE / DATA_FILE).stat().st_size
        until_acknowledged(clients)
        assert (path / STORE / DATA_FILE).stat().st_size < grown + (1 << 20)
        assert metric not in daemon.request("/metrics")[1]
    assert surprises(clients) == []
    return len([step for client in clients for step in client.acknowledged])


def no_descriptors(path: Path) -> int:
    """
    Have the supervisor open nothing any more.

    The standby takes over as ever, and no third worker can be started.  When there are
    descriptors again a worker is started.
    """
    with Daemon(path) as daemon:
        both_are_up(daemon)
        with load(daemon) as clients:
            supervisor = daemon.process.pid
            limit = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
            used = {
                int(descriptor.name)
                for descriptor in Path(f"/proc/{supervisor}/fd").iterdir()
            }
            lowest = min(set(range(len(used) + 1)) - used)
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (lowest, limit[1]))
            _kill(daemon)
            until(daemon, "serves", 2)
            wait_for(daemon, "cannot start worker-[0-9]+: .*Too many open files")
            until_acknowledged(clients)
            assert count(daemon, "is process") == 2
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limit)
            until(daemon, "stands by", 2)
            _kill(daemon)
            until(daemon, "serves", 3)
            until_acknowledged(clients)
        assert surprises(clients) == []
        return kept(daemon, clients)


def _kill(daemon: Daemon) -> None:
    _, pid = serving(daemon)
    os.kill(pid, signal.SIGKILL)


def out_of_memory(path: Path) -> int:
    """
    Make the worker larger than it may be, so that the kernel ends it.

    A crowd of large requests, each without its last line, makes it large.  The standby
    takes over.
    """
    asked = (
        b"POST /next HTTP/1.1\r\nHost: localhost\r\n" + b"Name: %b\r\n" % (b"x" * 200) * 70
    )
    with memory_group(ROOM) as group, Daemon(path) as daemon, ExitStack() as crowd:
        both_are_up(daemon)
        with load(daemon) as clients:
            until_acknowledged(clients)
            name, pid = serving(daemon)
            group.take_in(pid)
            for _ in range(CROWD):
                if not alive(pid):
                    break
                connection = crowd.enter_context(
                    socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)
                )
                # The worker may be ended in the middle of this.
                with suppress(ConnectionError):
                    connection.sendall(asked)
            wait_until_gone(pid)
            assert group.kills == 1
            crowd.close()
            until(daemon, "serves", 2)
            until_acknowledged(clients)
        wait_for(daemon, f"{name} ended by SIGKILL")
        assert surprises(clients) == []
        return kept(daemon, clients)


def jumping_clock(path: Path) -> int:
    """
    Set the wall clock an hour forward, two back, and right again.

    Steps continue, in order, and no worker is taken for silent.  The history has the times
    that the clock showed.
    """
    with own_clock(path) as clock, Daemon(path, "--watchdog", str(WATCHDOG)) as daemon:
        both_are_up(daemon)
        with load(daemon) as clients:
            for hours in (1, -1, 0):
                clock.jump(hours)
                _went_by(daemon, timedelta(hours=hours))
                # Enough time for a worker to be taken for silent.
                end = time.monotonic() + WATCHDOG
                while time.monotonic() < end:
                    until_acknowledged(clients, 100)
        assert (count(daemon, "serves"), count(daemon, "is process")) == (1, 2)
        assert "silent" not in daemon.log.read_text()
        assert surprises(clients) == []
        return kept(daemon, clients)


def _went_by(daemon: Daemon, ahead: timedelta) -> None:
    """
    See that a step is in the history with the time of a clock so far ahead.
    """
    before = datetime.now(UTC)
    answer, _ = daemon.request(
        "/next", "POST", {"Idempotency-Key": f"ahead-{ahead.total_seconds()}"}
    )
    after, revision = datetime.now(UTC), int(answer.headers["Pex-Revision"])
    page = f"/history?limit=1&before={revision + 1}"
    (row,) = json.loads(daemon.request(page, headers={"Accept": "application/json"})[1])[
        "transitions"
    ]
    assert row["revision"] == revision
    # Microseconds, cut off.
    time = datetime.fromisoformat(row["time"]) + timedelta(microseconds=1)
    assert before <= time - ahead <= after + timedelta(microseconds=1)


def hanging_disk(path: Path) -> int:
    """
    Make flushes take seconds.

    A flush holds up the step that waits for it, but neither readers nor the signs of life.
    Readers see the state that was durable before.
    """
    with Daemon(path, "--watchdog", "30") as daemon:
        both_are_up(daemon)
        _, pid = serving(daemon)
        with slow_flushes(pid, HANGING), ExitStack() as kept_open:
            # The first flush hangs inline; the service then knows what disk this is.
            before, _ = daemon.request("/next", "POST")
            revision, reads = int(before.headers["Pex-Revision"]), 0
            # On a busy machine this process may stand still during a flush.
            while reads < 10 and revision < MAX_HANGING_STEPS:
                step = kept_open.enter_context(
                    socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)
                )
                step.sendall(b"POST /next HTTP/1.0\r\n\r\n")
                while not select([step], [], [], 0)[0]:
                    answer, _ = daemon.request("/current")
                    live, _ = daemon.request("/livez")
                    assert (answer.status, live.status) == (200, 200)
                    # The last reads may have arrived after the flush.
                    reads += int(answer.headers["Pex-Revision"]) == revision
                revision += 1
                assert b"\r\nPex-Revision: %d\r\n" % revision in step.recv(1000)
        assert reads >= 10
        assert count(daemon, "is process") == 2
    return revision


def hung_disk(path: Path) -> int:
    """
    Make a flush take longer than the watchdog has patience.

    The worker is replaced, and the next one continues.
    """
    with Daemon(path, "--watchdog", "1") as daemon:
        both_are_up(daemon)
        with load(daemon) as clients:
            until_acknowledged(clients)
            name, pid = serving(daemon)
            with slow_flushes(pid, 10 * TIMEOUT_SECONDS):
                wait_for(daemon, f"no heartbeat from {name} for .* s; replacing it")
                wait_for(daemon, rf"{name} \w+: Fatal Python error: Aborted")
                # A process that strace holds is not gone before strace lets go of it.
            until(daemon, "serves", 2)
            until_acknowledged(clients)
            assert not alive(pid)
        assert surprises(clients) == []
        return kept(daemon, clients)


#: By shortage, what its test needs of the machine; see L{tests.support.needs}.
SHORTAGES: Mapping[Callable[[Path], int], Sequence[str]] = {
    full_disk: ("root", "mounts", "mkfs.ext4"),
    no_room_to_grow: ("root", "mounts", "mkfs.ext4"),
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
    tried = acknowledged = 0
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        for shortage in SHORTAGES:
            with tempfile.TemporaryDirectory() as path:
                acknowledged += shortage(Path(path))
            tried += 1
            print(
                f"{shortage.__name__}: {tried} tried, {acknowledged:,} steps told",
                flush=True,
            )
        keep_result(tried, acknowledged)


def keep_result(tried: int, acknowledged: int) -> None:
    """
    Record the figures for the page.
    """
    record(
        Evidence(
            name="resources",
            promise="A full or hanging disk, a lack of descriptors or memory, and a wall"
            " clock that jumps delay steps only while they last, and lose none.",
            size=tried,
            unit="shortages",
            result=f"{acknowledged:,} steps acknowledged meanwhile, 0 lost, 0 connections"
            " refused",
            command="make resources",
        )
    )


if __name__ == "__main__":
    main()
