"""
The shares of three nodes in one cursor: steps per node, and the waits of the clients.

C{python -m tests.labs.cluster.turns [SECONDS]} measures them with three members of etcd:
with as many connections on each node, with few connections next to many, with a node that
is killed, with one that is paused, and with one that is far from etcd.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from tests.labs.cluster.lab import proxy_of
from tests.labs.failover.lab import percentile
from tests.support.clients import Client, running
from tests.support.daemon import LOOPBACK, Daemon
from tests.support.etcd import Member, cluster
from tests.support.evidence import record

#: How long one measurement lasts.
MEASUREMENT_SECONDS = 10.0

#: Before a measurement, connections are made, and batches reach their usual size.
WARM_UP_SECONDS = 1.0

#: The delay in each direction of an etcd with a round trip of 30 ms.
FAR_DELAY_SECONDS = 0.015


@contextmanager
def _nodes(
    path: Path, members: Sequence[Member], count: int, *, one_far: bool = False
) -> Iterator[list[Daemon]]:
    """
    Start C{count} nodes; the last one may be far from etcd.
    """
    path.mkdir()
    with ExitStack() as stack:
        daemons = []
        for number in range(count):
            urls = [member.url for member in (*members[number:], *members[:number])]
            if one_far and number == count - 1:
                proxies = [
                    stack.enter_context(proxy_of(url, FAR_DELAY_SECONDS)) for url in urls
                ]
                urls = [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
            directory = path / f"n{number}"
            directory.mkdir()
            options = ("--store", "etcd:" + ",".join(urls), "--listen", LOOPBACK)
            node = Daemon(directory, *options, command="pexservice-worker")
            daemons.append(stack.enter_context(node))
        yield daemons


def _kill(daemons: Sequence[Daemon]) -> None:
    daemons[-1].process.send_signal(signal.SIGKILL)


def _pause(daemons: Sequence[Daemon]) -> None:
    daemons[-1].process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    daemons[-1].process.send_signal(signal.SIGCONT)


def measure(
    path: Path,
    members: Sequence[Member],
    name: str,
    counts: Sequence[int],
    seconds: float,
    *,
    fault: Callable[[Sequence[Daemon]], None] = lambda _: None,
    one_far: bool = False,
) -> tuple[list[float], float]:
    """
    Put load on nodes, with C{counts} connections each, and print a row of the table.

    @param fault: causes a fault after a quarter of the time.
    @param one_far: whether the last node is far from etcd.
    @return: the steps per second of each node, and the longest wait in seconds.
    """
    directory = path / name.replace(" ", "-")
    with _nodes(directory, members, len(counts), one_far=one_far) as daemons:
        # Clients with an even number use no keys.
        clients = [
            [Client(2 * number, daemon.port) for number in range(count)]
            for daemon, count in zip(daemons, counts, strict=True)
        ]
        with running([*chain.from_iterable(clients)]):
            time.sleep(WARM_UP_SECONDS)
            start = time.monotonic()
            time.sleep(seconds / 4)
            fault(daemons)
            time.sleep(max(0, start + seconds - time.monotonic()))
    waits = [
        [
            step.ended - step.began
            for client in clients_of_node
            for step in client.acknowledged
            if start <= step.began < start + seconds
        ]
        for clients_of_node in clients
    ]
    rates = [len(waits_of_node) / seconds for waits_of_node in waits]
    longest = max(chain.from_iterable(waits))
    percentiles = [
        f"{1000 * percentile(waits_of_node or [0.0], 0.99):.0f}" for waits_of_node in waits
    ]
    columns = (
        name,
        " + ".join(f"{rate:,.0f}" for rate in rates),
        f"{sum(rates):,.0f}",
        ", ".join(percentiles),
        f"{1000 * longest:.0f}",
    )
    print(f"| {' | '.join(columns)} |", flush=True)
    return rates, longest


def main() -> None:
    """
    Make all measurements, and record how evenly the nodes share the cursor.
    """
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else MEASUREMENT_SECONDS
    print("| nodes, connections | steps/s | together | 99 % within, ms | longest, ms |")
    print("|---|---:|---:|---:|---:|")
    fairness, longest_waits = [], []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "etcd").mkdir()
        with cluster(path / "etcd", 3) as members:
            for count in (1, 5, 21):
                measure(path, members, f"one, {count}", [count], seconds)
                rates, longest = measure(
                    path, members, f"three, {count} each", [count] * 3, seconds
                )
                fairness.append(max(rates) * 3 / sum(rates))
                longest_waits.append(longest)
            measure(path, members, "three, 1 beside 21 and 21", [1, 21, 21], seconds)
            five = [5] * 3
            measure(path, members, "three, 5, one killed", five, seconds, fault=_kill)
            measure(path, members, "three, 5, one paused 2 s", five, seconds, fault=_pause)
            measure(path, members, "three, 5, one 30 ms away", five, seconds, one_far=True)
    record(
        "turns",
        promise="No node on etcd starves.",
        size=int(seconds * 3 * 3),
        unit="seconds of three nodes with 1, 5 and 21 connections each",
        result=f"the busiest node made at most {max(fairness):.2f} times the mean;"
        f" longest wait {1000 * max(longest_waits):.0f} ms",
    )


if __name__ == "__main__":
    main()
