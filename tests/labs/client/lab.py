"""
Steps of the Python client while workers and supervisors, or nodes of a cluster, are killed.

Afterwards, the history must have exactly one step for each call, and each call a response.

C{python -m tests.labs.client.lab [SECONDS]} is the long form; the tests call L{one_machine}
and L{three_nodes} for a few seconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import Factory, define, frozen

from pexservice.client import BlockingCursor, CursorError
from tests.labs.failover.lab import JOURNAL
from tests.support.clients import replayed
from tests.support.daemon import Daemon, children, wait_until
from tests.support.etcd import cluster
from tests.support.evidence import record
from tests.support.nginx import nginx
from tests.support.ports import held_ports

#: How many clients make steps at the same time, for each group of URLs.
CLIENTS = 64

#: Much longer than any call should take, so that no call fails by its deadline.
DEADLINE_SECONDS = 120.0

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


@define(eq=False)
class ClientRecord:
    """
    The record of one client.

    @ivar call_count: how many calls were made.
    @ivar responses: of each call with a response, the revision, the position, the
        transition and the duration in seconds.
    @ivar replayed: how many of these responses were replays.
    @ivar repetitions: how many failed attempts were repeated.
    @ivar failures: the errors of the calls that failed.
    """

    call_count: int = 0
    responses: list[tuple[int, int, str, float]] = Factory(list)
    replayed: int = 0
    repetitions: int = 0
    failures: list[str] = Factory(list)


def make_steps(
    urls: Sequence[str], record: ClientRecord, end: float, client_number: int
) -> None:
    """
    Make steps until the time C{end}.
    """

    def on_retry(_: str) -> None:
        record.repetitions += 1

    rng = random.Random(client_number)  # noqa: S311 nothing secret
    # Each client tries another address first.
    first = client_number % len(urls)
    with BlockingCursor(
        *urls[first:], *urls[:first], deadline=DEADLINE_SECONDS, on_retry=on_retry
    ) as cursor:
        while time.monotonic() < end:
            transition = rng.choices(["next", "previous", "reset"], [60, 39, 1])[0]
            record.call_count += 1
            began = time.monotonic()
            try:
                state = getattr(cursor, transition)()
            except CursorError as error:
                record.failures.append(f"{type(error).__name__}: {error}")
                continue
            seconds = time.monotonic() - began
            record.responses.append((state.revision, state.position, transition, seconds))
            record.replayed += state.replayed


@contextmanager
def running_clients(
    seconds: float, url_groups: Sequence[Sequence[str]]
) -> Iterator[list[ClientRecord]]:
    """
    Run clients of each group of URLs in threads, until the end of the block.

    @return: a list that has the records of the clients after the block.
    """
    records: list[ClientRecord] = []
    clients: list[Future[None]] = []
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(len(url_groups) * CLIENTS) as threads:
        for urls in url_groups:
            for number in range(CLIENTS):
                records.append(ClientRecord())
                client = threads.submit(make_steps, urls, records[-1], end, number)
                clients.append(client)
        yield records
    for client in clients:
        client.result()


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
            with running_clients(seconds, url_groups) as records:
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
            with running_clients(seconds, [urls]) as records:
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
