"""
The load: Debian's C{ab} and C{wrk} are run, and their output is read.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from attrs import Factory, frozen

#: ab cannot alternate, so it makes so many steps up and then as many down.
AB_STEPS = 1000

_LUA = str(Path(__file__).with_name("requests.lua"))


class BadAnswers(Exception):
    """
    Answers that are no success, or not as many as the steps that were made.
    """


@frozen
class Target:
    """
    A server under load.

    @ivar url: the URL without a path.
    @ivar read: the path of a look.
    @ivar up: the path of a step.
    @ivar down: the path of a step back.
    @ivar counts: whether its answers tell the revision.
    """

    name: str
    url: str
    read: str = "/current"
    up: str = "/next"
    down: str = "/previous"
    counts: bool = False

    def resting(self) -> int:
        """
        Return how many steps the server has acknowledged, once no more come.

        When a load ends, some steps are under way.
        """
        before, revision = -1, self.revision()
        while before != revision:
            time.sleep(0.02)
            before, revision = revision, self.revision()
        return revision

    def revision(self) -> int:
        """
        Return how many steps the server has acknowledged.
        """
        with urlopen(self.url + self.read) as answer:  # noqa: S310 our own URL
            return int(answer.headers["Pex-Revision"])


@frozen
class Load:
    """
    One kind of load.

    @ivar tool: C{ab}, which opens a connection for each request, or C{wrk}.
    @ivar connections: the number of concurrent connections.
    @ivar steps: whether requests are steps, back and forth; otherwise they are reads.
    @ivar one_core: whether the client is on the first core, where the server is.
    @ivar up_only: whether steps always go up.
    @ivar carries: the name of the headers in the table.
    @ivar heads: the header lines, as C{requests.lua} takes them; several heads take turns.
    @ivar closes: whether C{wrk} too opens a connection for each request.
    @ivar moves: whether each step moves the cursor.
    @ivar body: the body of each request, which is a POST then; needs C{wrk}.
    """

    tool: str
    connections: int
    steps: bool = True
    one_core: bool = False
    up_only: bool = False
    carries: str = ""
    heads: Sequence[Sequence[str]] = ((),)
    closes: bool = False
    moves: bool = True
    body: str = ""

    def __str__(self) -> str:
        asked = "steps" if self.steps else "`/current`"
        where = ", one core" if self.one_core else ""
        carries = self.carries and f", {self.carries}"
        closes = ", closing" if self.closes else ""
        return f"{asked}, {self.tool} c{self.connections}{closes}{where}{carries}"


@frozen
class Measured:
    """
    The result of a run.

    @ivar rate: requests a second.
    @ivar percentiles: milliseconds by percentile.
    @ivar requests: how many requests there were.
    """

    rate: float
    percentiles: dict[float, float] = Factory(dict)
    requests: int = 0


def measure(target: Target, load: Load, seconds: float) -> Measured:
    """
    Run C{load} on C{target} for about C{seconds}, and check the answers.

    @raise BadAnswers: an answer was no success, or there are not as many steps as
        answers.
    """
    counted = target.counts and load.steps and load.moves
    before = target.resting() if counted else 0
    measured = (_ab if load.tool == "ab" else _wrk)(target, load, seconds)
    if counted:
        requests = measured.requests
        grown = target.resting() - before
        # Steps that were under way when wrk stopped were made, and wrk does not count them.
        spare = load.connections if load.tool == "wrk" else 0
        if not requests <= grown <= requests + spare:
            raise BadAnswers(f"{requests} answers of {target.name}, {grown} steps")
    return measured


def _run(load: Load, command: Sequence[str]) -> str:
    pinned = ["taskset", "-c", "0"] if load.one_core else []
    done = subprocess.run([*pinned, *command], check=False, capture_output=True, text=True)
    if done.returncode or re.search(r"Non-2xx|Socket errors", done.stdout):
        raise BadAnswers(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def _found(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise BadAnswers(said)
    return float(found[1])


def _wrk(target: Target, load: Load, seconds: float) -> Measured:
    # wrk takes whole seconds.
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s"]
    paths = [target.up] if load.up_only else [target.up, target.down]
    closing = ["Connection: close"] if load.closes else []
    heads: list[str] = []
    for path in paths if load.steps else [target.read]:
        for lines in load.heads:
            heads += ["|"] * bool(heads) + [path, *lines, *closing]
    run = str(time.time_ns() // 1000 % 10**9)
    said = _run(
        load, [*command, "--latency", "-s", _LUA, target.url, "--", run, load.body, *heads]
    )
    percentiles = re.search(r"percentiles(.*)", said)
    return Measured(
        _found(r"Requests/sec: +([\d.]+)", said),
        {
            float(percentile): int(microseconds) / 1000
            for percentile, microseconds in re.findall(
                r"([\d.]+)=(\d+)", percentiles[1] if percentiles else ""
            )
        },
        int(_found(r"(\d+) requests in", said)),
    )


def _ab(target: Target, load: Load, seconds: float) -> Measured:
    (lines,) = load.heads
    headers = [word for line in lines for word in ("-H", line)]
    taken, requests = 0.0, 0
    turn = 0
    while taken < seconds or turn % 2:
        back = turn % 2 and not load.up_only
        path = (target.down if back else target.up) if load.steps else target.read
        said = _run(
            load,
            [
                *("ab", "-q", "-l", "-c", str(load.connections)),
                *("-n", str(AB_STEPS), *headers, target.url + path),
            ],
        )
        requests += int(_found(r"Complete requests: +(\d+)", said))
        taken += _found(r"Time taken for tests: +([\d.]+)", said)
        turn += 1
    return Measured(requests / taken, requests=requests)
