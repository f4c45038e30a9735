"""
Kills of the worker that serves, again and again, under load.

The clients open a connection for each request.  The laboratory measures the pauses and
failures that the clients notice.

C{python -m tests.labs.failover.lab [KILLS]} prints the table of
C{docs/performance.md}; the tests call L{failover} with fewer kills.
"""

from __future__ import annotations

import math
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from attrs import frozen

from tests.support.clients import AcknowledgedStep, Client, check, running
from tests.support.daemon import Daemon, wait_until
from tests.support.loads import until_acknowledged

CLIENTS = 32

#: How long the load runs before each kill, at least and at most.  Seconds.
LOAD = (0.05, 0.25)

#: How many steps are answered before that.
MIN_ACKNOWLEDGED = 20

JOURNAL = "10000000"


@frozen
class Result:
    """
    The figures of what the clients noticed.

    @ivar pauses: from each kill to the first answer to a request that was begun after it.
        Seconds.
    @ivar broken: connections that ended without an answer, of those in the hands of a
        worker that was killed.
    """

    kills: int
    acknowledged: int
    refused: int
    broken: int
    replayed: int
    pauses: Sequence[float]

    @property
    def median(self) -> float:
        """
        Return the median of the pauses.
        """
        return statistics.median(self.pauses)

    @property
    def percentile_99(self) -> float:
        """
        Return the pause that 99 of 100 pauses do not exceed.
        """
        return sorted(self.pauses)[math.ceil(0.99 * len(self.pauses)) - 1]


#: The beginning of a supervisor's line.
_SAYS = r"supervisor \w+:"


def serving(daemon: Daemon) -> tuple[str, int]:
    """
    Return the name and the process id of the worker that serves, by the log.
    """
    log = daemon.log.read_text()
    (*_, name) = re.findall(rf"{_SAYS} (worker-\d+) serves", log)
    (*_, pid) = re.findall(rf"{_SAYS} {name} is process (\d+)", log)
    return name, int(pid)


def count(daemon: Daemon, words: str) -> int:
    """
    Return how often the log says C{words} of a worker.
    """
    return len(re.findall(rf"{_SAYS} worker-\d+ {words}", daemon.log.read_text()))


def until(daemon: Daemon, words: str, times: int) -> None:
    """
    Wait until the log has said C{words} of a worker so often.
    """
    wait_until(lambda: count(daemon, words) >= times, f"{words} {times} times")


def failover(path: Path, kills: int, *, standby: int = 1) -> Result:
    """
    Kill the worker that serves so often, and return what the clients noticed.

    @raise AssertionError: an acknowledged step was lost, or one was made twice.
    """
    moments = random.Random(kills)  # noqa: S311 nothing secret
    moment_of: list[float] = []
    with Daemon(path, "--journal", JOURNAL, "--standby", str(standby)) as daemon:
        clients = [Client(n, daemon.port, fresh=True) for n in range(CLIENTS)]
        with running(clients):
            for number in range(kills):
                until(daemon, "serves", number + 1)
                if standby:
                    until(daemon, "stands by", number + 1)
                until_acknowledged(clients, MIN_ACKNOWLEDGED)
                time.sleep(moments.uniform(*LOAD))
                _, pid = serving(daemon)
                moment_of.append(time.monotonic())
                os.kill(pid, signal.SIGKILL)
            until(daemon, "serves", kills + 1)
        acknowledged, _ = check(daemon, clients)
    return Result(
        kills,
        acknowledged,
        sum(client.refused for client in clients),
        sum(client.broken for client in clients),
        sum(client.replayed for client in clients),
        pauses(moment_of, [step for client in clients for step in client.acknowledged]),
    )


def pauses(moments: Sequence[float], answers: Sequence[AcknowledgedStep]) -> list[float]:
    """
    Return the time from each of C{moments} to the first answer to a request begun after it.
    """
    answers = sorted(answers, key=lambda step: step.began)
    # By position among the answers, the earliest to that request or to a later one.
    earliest = [*accumulate((answer.ended for answer in reversed(answers)), min)][::-1]
    return [
        earliest[bisect_right(answers, moment, key=lambda step: step.began)] - moment
        for moment in moments
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
        row = (
            title,
            f"{result.kills:,}",
            f"{result.acknowledged:,}",
            str(result.refused),
            f"{result.broken:,}",
            f"{1000 * result.median:.1f} ms",
            f"{1000 * result.percentile_99:.1f} ms",
        )
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
