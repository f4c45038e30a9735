"""
Steps by the client while workers and supervisors are killed, or whole nodes of a cluster.

The laboratory counts by the history: every call is answered, and made once.

C{python -m tests.labs.client.lab [SECONDS]} is the long form; the tests call L{one_machine}
and L{three_nodes} for some seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import frozen

from pexservice.client import BlockingCursor
from tests.labs.client.callers import Calls
from tests.labs.failover.lab import JOURNAL, serving
from tests.support.clients import replayed
from tests.support.daemon import PATIENCE, Daemon, children, wait_until
from tests.support.etcd import cluster
from tests.support.evidence import Evidence, record
from tests.support.nginx import nginx
from tests.support.ports import held_ports

#: How many steps are under way at a time, by each way to the service.
CALLERS = 64

#: How often the worker that serves is killed, and its supervisor.  Seconds.
WORKERS = 2.0
SUPERVISORS = 20.0

#: How long a node of a cluster is gone, and how long all are there.  Seconds.
GONE = 5.0
THERE = 5.0


@frozen
class Result:
    """
    The figures of the callers' records, which the history has borne out.

    @ivar kills: workers, or nodes, that were killed.
    @ivar restarts: supervisors that were killed.
    @ivar calls: calls, all of which were answered.
    @ivar requests: how often the calls were sent.
    @ivar replayed: calls that had been made when they were sent again.
    @ivar longest: the longest time that a call took, in seconds.
    @ivar median: half of the calls took no longer.
    """

    kills: int
    restarts: int
    calls: int
    requests: int
    replayed: int
    longest: float
    median: float


@contextmanager
def calling(
    path: Path, seconds: float, ways: Sequence[Sequence[str]]
) -> Iterator[list[Calls]]:
    """
    Have callers step by each of several ways, until the end of the block.

    @param ways: the base URLs of each way.
    @return: the callers' records, at the end of the block.
    """
    calls: list[Calls] = []
    files = [path / f"calls-{number}.json" for number in range(len(ways))]
    processes = []
    try:
        for file, urls in zip(files, ways, strict=True):
            command = [sys.executable, "-m", "tests.labs.client.callers"]
            arguments = [str(seconds), str(CALLERS), str(file), *urls]
            processes.append(subprocess.Popen([*command, *arguments]))
        yield calls
        for process in processes:
            assert process.wait(seconds + 2 * PATIENCE) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    calls += [Calls(**json.loads(file.read_text())) for file in files]


def check(calls: Sequence[Calls], url: str) -> None:
    """
    Compare the responses of the callers with the history of the service at C{url}.

    @raise AssertionError: a call was not answered, or was not made once.
    """
    assert [failure for caller in calls for failure in caller.failures] == []
    answers = {
        revision: (position, word)
        for caller in calls
        for revision, position, word, _ in caller.answers
    }
    begun = sum(caller.begun for caller in calls)
    # Each call was answered, and no two by one step; no key was used for two calls.
    assert len(answers) == sum(len(caller.answers) for caller in calls) == begun
    assert sum(caller.keys for caller in calls) == begun
    with BlockingCursor(url) as cursor:
        history = {
            step.revision: (step.position, step.transition) for step in cursor.history()
        }
    assert len(history) == begun, f"{len(history)} steps for {begun} calls"
    assert history == answers
    replayed(history)


def result(calls: Sequence[Calls], kills: int, restarts: int) -> Result:
    """
    Return the figures of a run.
    """
    times = sorted(took for caller in calls for *_, took in caller.answers)
    return Result(
        kills=kills,
        restarts=restarts,
        calls=len(times),
        requests=sum(caller.requests for caller in calls),
        replayed=sum(caller.replayed for caller in calls),
        longest=times[-1],
        median=times[len(times) // 2],
    )


def one_machine(
    path: Path, seconds: float, *, proxied: bool = False, supervisors: float = SUPERVISORS
) -> Result:
    """
    Kill the serving worker every L{WORKERS} seconds, its supervisor every C{supervisors}.

    The supervisor is then started again.

    @param proxied: half of the callers come through nginx.
    @raise AssertionError: a call was not answered, or was not made once.
    """
    kills = restarts = 0
    with ExitStack() as stack:
        (port,) = stack.enter_context(held_ports(1))
        url = f"http://127.0.0.1:{port}"
        ways = [[url]]
        options = (
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", "unix:socket"),
            *("--journal", JOURNAL),
        )
        if proxied:
            place = path / "nginx"
            place.mkdir()
            there = stack.enter_context(nginx(place, path / "socket"))
            ways.append([f"http://127.0.0.1:{there}"])
        daemon = Daemon(path, *options)
        try:
            with calling(path, seconds, ways) as calls:
                end = time.monotonic() + seconds
                next_restart = time.monotonic() + supervisors
                while time.monotonic() + WORKERS < end or not (kills and restarts):
                    time.sleep(WORKERS)
                    if time.monotonic() >= next_restart:
                        daemon.kill()
                        daemon = Daemon(path, *options)
                        restarts += 1
                        next_restart = time.monotonic() + supervisors
                    else:
                        kills += kill_worker(daemon)
            check(calls, url)
        finally:
            daemon.stop()
    summary = result(calls, kills, restarts)
    record(
        Evidence(
            name="exactly-once-proxied" if proxied else "exactly-once",
            promise="The client's steps are made once, although processes are killed"
            + (", also through nginx." if proxied else "."),
            size=summary.calls,
            unit="calls",
            result=f"{len(ways) * CALLERS} clients, {kills} SIGKILLs of the active"
            f" worker and {restarts} of the supervisor: every call answered, steps ="
            f" calls, {summary.requests - summary.calls:,} repetitions,"
            f" {summary.replayed:,} of them replayed, longest wait {summary.longest:.1f} s",
            command="make exactly-once",
        )
    )
    return summary


def kill_worker(daemon: Daemon) -> bool:
    """
    Kill the worker that serves, if it is not one that was killed before.
    """
    with suppress(ValueError, ProcessLookupError):
        _, pid = serving(daemon)
        if pid in children(daemon.process.pid):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def three_nodes(path: Path, seconds: float) -> Result:
    """
    Kill one of three nodes at a time, with its etcd, and start it again.

    @raise AssertionError: a call was not answered, or was not made once.
    """
    kills = 0
    with ExitStack() as stack:
        members = stack.enter_context(cluster(path, 3))
        ports = stack.enter_context(held_ports(3))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        store = ",".join(member.url for member in members)

        def start(number: int) -> Daemon:
            place = path / f"node-{number}"
            place.mkdir(exist_ok=True)
            return Daemon(
                place,
                *("--listen", f"tcp:{ports[number]}:interface=127.0.0.1"),
                *("--store", f"etcd:{store}", "--journal", JOURNAL),
                command="pexservice-worker",
            )

        nodes = [start(number) for number in range(3)]
        try:
            with calling(path, seconds, [urls]) as calls:
                end = time.monotonic() + seconds
                while time.monotonic() + GONE < end:
                    number = kills % 3
                    nodes[number].kill()
                    members[number].kill()
                    kills += 1
                    time.sleep(GONE)
                    members[number].start()
                    wait_until(members[number].healthy, "etcd is healthy again")
                    nodes[number] = start(number)
                    time.sleep(min(THERE, max(end - time.monotonic(), 0)))
            check(calls, urls[0])
        finally:
            for node in nodes:
                node.kill()
    summary = result(calls, kills, 0)
    record(
        Evidence(
            name="exactly-once-etcd",
            promise="The client's steps are made once, while nodes of a cluster are"
            " killed.",
            size=summary.calls,
            unit="calls",
            result=f"{CALLERS} clients of three nodes, a node and its etcd killed"
            f" {kills} times: every call answered, steps = calls,"
            f" {summary.requests - summary.calls:,} repetitions, {summary.replayed:,}"
            f" replayed, longest wait {summary.longest:.1f} s",
            command="make exactly-once",
        )
    )
    return summary


def main() -> None:
    """
    Run the long form.
    """
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    for title, run in (
        ("one machine", one_machine),
        ("one machine, half through nginx", lambda *args: one_machine(*args, proxied=True)),
        ("three nodes on etcd", three_nodes),
    ):
        if len(sys.argv) > 2 and sys.argv[2] not in title:
            continue
        with tempfile.TemporaryDirectory() as path:
            print(f"{title}: {run(Path(path), seconds)}", flush=True)


if __name__ == "__main__":
    main()
