"""
Kills of the active worker under load.

The clients open a connection for each request.  The pauses and the failures that they
notice are measured.

C{python -m tests.labs.failover.lab [KILLS]} prints the table of C{docs/performance.md}; the
tests call L{failover} with fewer kills.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path

from attrs import frozen

from tests.support.clients import (
    AcknowledgedStep,
    Client,
    check,
    running,
    until_acknowledged,
)
from tests.support.daemon import Daemon

CLIENTS = 32

#: The shortest and the longest time of load before each kill, in seconds.
LOAD = (0.05, 0.25)

#: How many steps get a response before each kill.
MIN_ACKNOWLEDGED = 20

JOURNAL = "10000000"


def percentile(values: Sequence[float], share: float) -> float:
    """
    Return the value that C{share} of C{values} do not exceed.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


@frozen
class Result:
    """
    What the clients noticed.

    @ivar pauses: the time from each kill to the first response to a request that began
        after it, in seconds.
    @ivar broken: how many connections of a killed worker ended without a response.
    """

    acknowledged: int
    refused: int
    broken: int
    pauses: Sequence[float]

    @property
    def median(self) -> float:
        return percentile(self.pauses, 0.5)

    @property
    def percentile_99(self) -> float:
        return percentile(self.pauses, 0.99)


def kill_under_load(
    daemon: Daemon,
    kills: int,
    wait_for_load: Callable[[], object],
    *,
    standby: bool = True,
) -> list[float]:
    """
    Kill the active worker so often, after some load each time.

    @param standby: whether to wait for the standby before each kill.
    @return: the times of the kills.
    """
    rng = random.Random(kills)  # noqa: S311 nothing secret
    kill_times = []
    for number in range(1, kills + 1):
        daemon.until_logged("serves", number)
        if standby:
            daemon.until_logged("stands by", number)
        wait_for_load()
        time.sleep(rng.uniform(*LOAD))
        _, pid = daemon.active_worker()
        kill_times.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)
    daemon.until_logged("serves", kills + 1)
    return kill_times


def failover(
    path: Path, kills: int, *, standby: int = 1, client_count: int = CLIENTS
) -> Result:
    """
    Kill the active worker so often, and return what the clients noticed.

    @raise AssertionError: an acknowledged step was lost, or a step was made twice.
    """
    with Daemon(path, "--journal", JOURNAL, "--standby", str(standby)) as daemon:
        clients = [Client(n, daemon.port, fresh=True) for n in range(client_count)]
        with running(clients):
            kill_times = kill_under_load(
                daemon,
                kills,
                lambda: until_acknowledged(clients, MIN_ACKNOWLEDGED),
                standby=standby > 0,
            )
            # At most one request of each client began before the last kill.
            until_acknowledged(clients, client_count + 1)
        acknowledged, _ = check(daemon, clients)
    return Result(
        acknowledged,
        sum(client.refused for client in clients),
        sum(client.broken for client in clients),
        pauses(kill_times, [step for client in clients for step in client.acknowledged]),
    )


def pauses(
    kill_times: Sequence[float], responses: Sequence[AcknowledgedStep]
) -> list[float]:
    """
    Return the time from each kill to the first response to a request that began after it.
    """
    by_end = sorted(responses, key=attrgetter("ended"))
    ends = [step.ended for step in by_end]
    after = (islice(by_end, bisect(ends, kill_time), None) for kill_time in kill_times)
    return [
        next(step.ended for step in steps if step.began >= kill_time) - kill_time
        for kill_time, steps in zip(kill_times, after, strict=True)
    ]


def main() -> None:
    """
    Kill workers so often, and print the table.
    """
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print("| | kills | answered | refused | cut off | pause, median | pause, 99% |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for title, number, standby in (
        ("a warm standby", kills, 1),
        ("`--standby 0`", max(kills // 20, 1), 0),
    ):
        with tempfile.TemporaryDirectory() as path:
            result = failover(Path(path), number, standby=standby)
        counts = f"{number:,} | {result.acknowledged:,} | {result.refused}"
        times = f"{1000 * result.median:.1f} ms | {1000 * result.percentile_99:.1f} ms"
        print(f"| {title} | {counts} | {result.broken:,} | {times} |", flush=True)


if __name__ == "__main__":
    main()
