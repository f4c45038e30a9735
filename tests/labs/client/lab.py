"""
Steps of the Python client while workers and supervisors, or nodes of a cluster, are killed.

Afterwards, the history must have exactly one step for each call, and each call a response.

C{python -m tests.labs.client.lab [SECONDS]} is the long form; the tests call L{one_machine}
and L{three_nodes} for a few seconds.
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
from tests.labs.client.clients import ClientRecord
from tests.labs.failover.lab import JOURNAL
from tests.support.clients import replayed
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, children, wait_until
from tests.support.etcd import cluster
from tests.support.evidence import record
from tests.support.nginx import nginx
from tests.support.ports import held_ports

#: How many clients make steps at the same time, for each group of URLs.
CLIENTS = 64

#: The intervals between two kills of the active worker, and of its supervisor.
WORKER_KILL_INTERVAL_SECONDS = 2.0
SUPERVISOR_KILL_INTERVAL_SECONDS = 20.0

#: How long a killed node of a cluster is down, and how long all nodes are up after that.
NODE_DOWN_SECONDS = 5.0
NODE_UP_SECONDS = 5.0


@frozen
class Result:
    """
    The figures of a run, checked against the history.

    @ivar kills: how many workers or nodes were killed.
    @ivar restarts: how many supervisors were killed and started again.
    @ivar calls: how many calls were made.
    @ivar repetitions: how many failed attempts of the calls were repeated.
    """

    kills: int
    restarts: int
    calls: int
    repetitions: int


@contextmanager
def running_clients(
    path: Path, seconds: float, url_groups: Sequence[Sequence[str]]
) -> Iterator[list[ClientRecord]]:
    """
    Run a process with clients for each group of URLs, until the end of the block.

    @return: a list that has the records of the clients after the block.
    """
    records: list[ClientRecord] = []
    files = [path / f"calls-{number}.json" for number in range(len(url_groups))]
    processes = []
    try:
        for file, urls in zip(files, url_groups, strict=True):
            command = [sys.executable, "-m", "tests.labs.client.clients"]
            arguments = [str(seconds), str(CLIENTS), str(file), *urls]
            processes.append(subprocess.Popen([*command, *arguments]))
        yield records
        for process in processes:
            assert process.wait(seconds + 2 * TIMEOUT_SECONDS) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    records += [ClientRecord(**json.loads(file.read_text())) for file in files]


def check(records: Sequence[ClientRecord], url: str) -> None:
    """
    Compare the records of the clients with the history of the service at C{url}.

    @raise AssertionError: a call has no response, or not exactly one step.
    """
    assert [failure for client in records for failure in client.failures] == []
    responses = {
        revision: (position, transition)
        for client in records
        for revision, position, transition, _ in client.responses
    }
    call_count = sum(client.call_count for client in records)
    # Each call has a response, and no two calls have the same step.
    assert len(responses) == sum(len(client.responses) for client in records) == call_count
    with BlockingCursor(url) as cursor:
        history = {
            step.revision: (step.position, step.transition) for step in cursor.history()
        }
    assert len(history) == call_count, f"{len(history)} steps for {call_count} calls"
    assert history == responses
    replayed(history)


def evaluate(
    records: Sequence[ClientRecord],
    url: str,
    kills: int,
    restarts: int = 0,
    *,
    name: str,
    promise: str,
    faults: str,
) -> Result:
    """
    Check the records, write down the evidence, and return the figures.

    @param faults: describes the clients and the faults.
    """
    check(records, url)
    durations = [seconds for client in records for *_, seconds in client.responses]
    repetitions = sum(client.repetitions for client in records)
    replays = sum(client.replayed for client in records)
    record(
        name,
        promise=promise,
        size=len(durations),
        unit="calls",
        result=f"{faults}: every call answered, steps = calls,"
        f" {repetitions:,} repetitions, {replays:,} of them replayed, longest wait"
        f" {max(durations):.1f} s",
        command="make exactly-once",
    )
    return Result(kills, restarts, len(durations), repetitions)


def one_machine(
    path: Path,
    seconds: float,
    *,
    proxied: bool = False,
    supervisor_interval: float = SUPERVISOR_KILL_INTERVAL_SECONDS,
) -> Result:
    """
    Kill the active worker at regular intervals, and sometimes its supervisor.

    A killed supervisor is started again.

    @param proxied: whether half of the clients connect through nginx.
    @raise AssertionError: see L{check}.
    """
    kills = restarts = 0
    with ExitStack() as stack:
        (port,) = stack.enter_context(held_ports(1))
        url = f"http://127.0.0.1:{port}"
        url_groups = [[url]]
        options = (
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", "unix:socket"),
            *("--journal", JOURNAL),
        )
        if proxied:
            directory = path / "nginx"
            directory.mkdir()
            nginx_port = stack.enter_context(nginx(directory, path / "socket"))
            url_groups.append([f"http://127.0.0.1:{nginx_port}"])
        daemon = Daemon(path, *options)
        try:
            with running_clients(path, seconds, url_groups) as records:
                end = time.monotonic() + seconds
                next_restart = time.monotonic() + supervisor_interval
                while time.monotonic() + WORKER_KILL_INTERVAL_SECONDS < end or not (
                    kills and restarts
                ):
                    time.sleep(WORKER_KILL_INTERVAL_SECONDS)
                    if time.monotonic() >= next_restart:
                        daemon.kill()
                        daemon = Daemon(path, *options)
                        restarts += 1
                        next_restart = time.monotonic() + supervisor_interval
                    else:
                        kills += kill_worker(daemon)
            return evaluate(
                records,
                url,
                kills,
                restarts,
                name="exactly-once-proxied" if proxied else "exactly-once",
                promise="The client's steps are made once, although processes are killed"
                + (", also through nginx." if proxied else "."),
                faults=f"{len(url_groups) * CLIENTS} clients, {kills} SIGKILLs of the"
                f" active worker and {restarts} of the supervisor",
            )
        finally:
            daemon.stop()


def kill_worker(daemon: Daemon) -> bool:
    """
    Kill the active worker, unless the log still names a worker that was killed before.
    """
    with suppress(ProcessLookupError):
        _, pid = daemon.active_worker()
        if pid in children(daemon.process.pid):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def three_nodes(path: Path, seconds: float) -> Result:
    """
    Kill one of three nodes at a time together with its etcd, and start both again.

    @raise AssertionError: see L{check}.
    """
    kills = 0
    with ExitStack() as stack:
        members = stack.enter_context(cluster(path, 3))
        ports = stack.enter_context(held_ports(3))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        store = ",".join(member.url for member in members)

        def start(number: int) -> Daemon:
            directory = path / f"node-{number}"
            directory.mkdir(exist_ok=True)
            return Daemon(
                directory,
                *("--listen", f"tcp:{ports[number]}:interface=127.0.0.1"),
                *("--store", f"etcd:{store}", "--journal", JOURNAL),
                command="pexservice-worker",
            )

        nodes = [start(number) for number in range(3)]
        try:
            with running_clients(path, seconds, [urls]) as records:
                end = time.monotonic() + seconds
                while time.monotonic() + NODE_DOWN_SECONDS < end:
                    number = kills % 3
                    nodes[number].kill()
                    members[number].kill()
                    kills += 1
                    time.sleep(NODE_DOWN_SECONDS)
                    members[number].start()
                    wait_until(members[number].healthy, "etcd is healthy again")
                    nodes[number] = start(number)
                    time.sleep(min(NODE_UP_SECONDS, max(end - time.monotonic(), 0)))
            return evaluate(
                records,
                urls[0],
                kills,
                name="exactly-once-etcd",
                promise="The client's steps are made once, while nodes of a cluster are"
                " killed.",
                faults=f"{CLIENTS} clients of three nodes, a node and its etcd killed"
                f" {kills} times",
            )
        finally:
            for node in nodes:
                node.kill()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    for title, run in (
        ("one machine", one_machine),
        ("one machine, half through nginx", lambda *args: one_machine(*args, proxied=True)),
        ("three nodes on etcd", three_nodes),
    ):
        with tempfile.TemporaryDirectory() as path:
            print(f"{title}: {run(Path(path), seconds)}", flush=True)


if __name__ == "__main__":
    main()
