"""
How three nodes share one cursor: how many steps each makes, and how long callers wait.

C{python -m tests.labs.cluster.turns [SECONDS]} measures that on three etcd: as many
connections on each node, few next to many, a node that is killed, one that is paused, and
one that is far from its etcd.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import Factory, define, frozen

from tests.labs.attacks.slow import percentile
from tests.labs.cluster.proxy import Mood, Proxy
from tests.support.daemon import LOOPBACK, Daemon
from tests.support.etcd import Member, cluster
from tests.support.evidence import Evidence, record

#: How long each measurement lasts.  Seconds.
SECONDS = 10.0

#: The time before a measurement begins: connections are made, batches find their size.
#: Seconds.
WARM_UP = 1.0

#: Half the way to an etcd that is 30 ms away.  Seconds.
FAR = 0.015

_STEP = b"POST /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


@define
class Node:
    """
    The observations of the callers of one node.

    @ivar waits: the wait for each answer.  Seconds.
    @ivar broken: how many requests had no answer.
    @ivar refused: how many answers were 503.
    """

    waits: list[float] = Factory(list)
    broken: int = 0
    refused: int = 0


@frozen
class Turns:
    """
    A measurement of nodes that share a cursor.

    @ivar nodes: what the callers of each saw.
    @ivar seconds: how long it lasted.
    """

    name: str
    nodes: Sequence[Node]
    seconds: float

    @property
    def rates(self) -> list[float]:
        """
        Return the steps a second, by node.
        """
        return [len(node.waits) / self.seconds for node in self.nodes]

    @property
    def percentiles(self) -> list[float]:
        """
        Return the wait that 99 of 100 answers do not exceed, by node.  Seconds.
        """
        return [percentile(node.waits or [0.0], 0.99) for node in self.nodes]

    @property
    def longest(self) -> float:
        """
        Return the longest wait of all.  Seconds.
        """
        return max(max(node.waits, default=0.0) for node in self.nodes)

    def row(self) -> str:
        """
        Return the measurement as a row of a table.
        """
        rates = " + ".join(f"{rate:,.0f}" for rate in self.rates)
        percentiles = ", ".join(
            f"{1000 * percentile:.0f}" for percentile in self.percentiles
        )
        return (
            f"| {self.name} | {rates} | {sum(self.rates):,.0f} | {percentiles} |"
            f" {1000 * self.longest:.0f} |"
        )


async def _call(port: int, begins: float, ends: float, node: Node) -> None:
    """
    Step on one connection until C{ends}.
    """
    writer: asyncio.StreamWriter | None = None
    while (began := time.monotonic()) < ends:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_STEP)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
        except (OSError, EOFError):
            node.broken += 1
            if writer is not None:
                writer.close()
                writer = None
            await asyncio.sleep(0.05)
            continue
        if began < begins:
            continue
        if head.startswith(b"HTTP/1.1 200 "):
            node.waits.append(time.monotonic() - began)
        else:
            node.refused += 1
            await asyncio.sleep(0.02)
    if writer is not None:
        writer.close()


async def _load(
    ports: Sequence[int], counts: Sequence[int], seconds: float, fault: Callable[[], object]
) -> list[Node]:
    nodes = [Node() for _ in ports]
    begins = time.monotonic() + WARM_UP
    calls = [
        asyncio.create_task(_call(port, begins, begins + seconds, node))
        for port, count, node in zip(ports, counts, nodes, strict=True)
        for _ in range(count)
    ]
    asyncio.get_running_loop().call_later(WARM_UP + seconds / 4, fault)
    # A node that is paused answers when it is resumed.
    await asyncio.gather(*calls)
    return nodes


@contextmanager
def _nodes(
    path: Path, members: Sequence[Member], count: int, *, distant: bool = False
) -> Iterator[list[Daemon]]:
    """
    Start C{count} nodes, of which the last may be far from all etcd.
    """
    path.mkdir()
    with ExitStack() as stack:
        daemons = []
        for number in range(count):
            urls = [member.url for member in (*members[number:], *members[:number])]
            if distant and number == count - 1:
                proxies = [Proxy(int(url.rpartition(":")[2]), FAR) for url in urls]
                for started_proxy in proxies:
                    stack.callback(started_proxy.close)
                    stack.enter_context(started_proxy.being(Mood.SLOW))
                urls = [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
            place = path / f"n{number}"
            place.mkdir()
            daemons.append(
                stack.enter_context(
                    Daemon(
                        place,
                        *("--store", "etcd:" + ",".join(urls), "--listen", LOOPBACK),
                        command="pexservice-worker",
                    )
                )
            )
        yield daemons


def _nothing(_: Sequence[Daemon]) -> None:
    """
    Let all go well.
    """


def _kill(daemons: Sequence[Daemon]) -> None:
    daemons[-1].process.send_signal(signal.SIGKILL)


def _pause(daemons: Sequence[Daemon]) -> None:
    process = daemons[-1].process
    process.send_signal(signal.SIGSTOP)
    asyncio.get_running_loop().call_later(2, process.send_signal, signal.SIGCONT)


def measure(
    path: Path,
    members: Sequence[Member],
    name: str,
    counts: Sequence[int],
    seconds: float,
    *,
    fault: Callable[[Sequence[Daemon]], None] = _nothing,
    distant: bool = False,
) -> Turns:
    """
    Load nodes with C{counts} connections each.

    @param fault: what happens to the nodes after a quarter of the time.
    @param distant: whether the last node is far from all etcd.
    """
    place = path / name.replace(" ", "-")
    with _nodes(place, members, len(counts), distant=distant) as daemons:
        ports = [daemon.port for daemon in daemons]
        nodes = asyncio.run(_load(ports, counts, seconds, lambda: fault(daemons)))
    turns = Turns(name, nodes, seconds)
    print(turns.row(), flush=True)
    return turns


def main() -> None:
    """
    Make all measurements, and record how fair the nodes are.
    """
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print("| nodes, connections | steps/s | together | 99 % within, ms | longest, ms |")
    print("|---|---:|---:|---:|---:|")
    fairness, longest = [], []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "etcd").mkdir()
        with cluster(path / "etcd", 3) as members:
            for count in (1, 5, 21):
                measure(path, members, f"one, {count}", [count], seconds)
                turns = measure(path, members, f"three, {count} each", [count] * 3, seconds)
                fairness.append(max(turns.rates) * 3 / sum(turns.rates))
                longest.append(turns.longest)
            measure(path, members, "three, 1 beside 21 and 21", [1, 21, 21], seconds)
            five = [5] * 3
            measure(path, members, "three, 5, one killed", five, seconds, fault=_kill)
            measure(path, members, "three, 5, one paused 2 s", five, seconds, fault=_pause)
            measure(path, members, "three, 5, one 30 ms away", five, seconds, distant=True)
    record(
        Evidence(
            name="turns",
            promise="No node on etcd starves.",
            size=int(seconds * 3 * 3),
            unit="seconds of three nodes with 1, 5 and 21 connections each",
            result=f"the busiest node made at most {max(fairness):.2f} times the mean;"
            f" longest wait {1000 * max(longest):.0f} ms",
            command="make turns",
        )
    )


if __name__ == "__main__":
    main()
