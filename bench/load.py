"""
The load: runs Debian's C{ab} and C{wrk}, and parses their output.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from attrs import Factory, frozen

#: ab cannot alternate, so it makes so many steps up, and then as many down.
AB_STEPS = 1000

_LUA = str(Path(__file__).with_name("requests.lua"))


class BadResponses(Exception):
    """
    Raised if a response is an error, or if responses and steps differ in number.
    """


@frozen
class Target:
    """
    A server under load.

    @ivar url: the URL without a path.
    @ivar read: the path of a read.
    @ivar up: the path of a step up.
    @ivar down: the path of a step down.
    @ivar counts: whether its responses have the revision.
    """

    name: str
    url: str
    read: str = "/current"
    up: str = "/next"
    down: str = "/previous"
    counts: bool = False

    def settled_revision(self) -> int:
        """
        Return the revision after the last step in progress when a load ends.
        """
        before, revision = -1, self.revision()
        while before != revision:
            time.sleep(0.02)
            before, revision = revision, self.revision()
        return revision

    def revision(self) -> int:
        """
        Return the number of steps that the server has made.
        """
        with urlopen(self.url + self.read) as answer:  # noqa: S310 our own URL
            return int(answer.headers["Pex-Revision"])


@frozen
class Load:
    """
    A kind of load.

    @ivar tool: C{wrk}, or C{ab}, which opens a connection for each request.
    @ivar connections: the number of concurrent connections.
    @ivar steps: whether the requests are steps up and down, or else reads.
    @ivar one_core: whether the client runs on the first core, as the server does.
    @ivar up_only: whether all steps go up.
    @ivar carries: describes the headers in the table.
    @ivar heads: lists of header lines, see C{requests.lua}; the requests use them in turns.
    @ivar closes: whether C{wrk} too opens a connection for each request.
    @ivar moves: whether each step moves the cursor.
    @ivar body: the body of each request, which makes it a POST; only for C{wrk}.
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
        subject = "steps" if self.steps else "`/current`"
        where = ", one core" if self.one_core else ""
        carries = self.carries and f", {self.carries}"
        closes = ", closing" if self.closes else ""
        return f"{subject}, {self.tool} c{self.connections}{closes}{where}{carries}"


@frozen
class Measured:
    """
    The result of a run.

    @ivar rate: requests per second.
    @ivar percentiles: milliseconds by percentile.
    @ivar requests: how many requests there were.
    """

    rate: float
    percentiles: dict[float, float] = Factory(dict)
    requests: int = 0


def measure(target: Target, load: Load, seconds: float) -> Measured:
    """
    Put C{load} on C{target} for about C{seconds}, and check the responses.

    @raise BadResponses: see L{BadResponses}.
    """
    is_counted = target.counts and load.steps and load.moves
    before = target.settled_revision() if is_counted else 0
    measured = (_ab if load.tool == "ab" else _wrk)(target, load, seconds)
    if is_counted:
        requests = measured.requests
        steps = target.settled_revision() - before
        # When wrk stops, it does not count the requests in progress, but their steps are
        # made.
        uncounted = load.connections if load.tool == "wrk" else 0
        if not requests <= steps <= requests + uncounted:
            raise BadResponses(f"{requests} answers of {target.name}, {steps} steps")
    return measured


def _run(load: Load, command: Sequence[str]) -> str:
    pinned = ["taskset", "-c", "0"] if load.one_core else []
    finished = subprocess.run(
        [*pinned, *command], check=False, capture_output=True, text=True
    )
    if finished.returncode or re.search(r"Non-2xx|Socket errors", finished.stdout):
        raise BadResponses(f"{' '.join(command)}: {finished.stdout}{finished.stderr}")
    return finished.stdout


def parse_number(pattern: str, output: str) -> float:
    match = re.search(pattern, output)
    if match is None:
        raise BadResponses(output)
    return float(match[1])


def _wrk(target: Target, load: Load, seconds: float) -> Measured:
    # wrk needs whole seconds.
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s"]
    paths = [target.up] if load.up_only else [target.up, target.down]
    closing = ["Connection: close"] if load.closes else []
    heads: list[str] = []
    for path in paths if load.steps else [target.read]:
        for lines in load.heads:
            heads += ["|"] * bool(heads) + [path, *lines, *closing]
    run = str(time.time_ns() // 1000 % 10**9)
    output = _run(
        load, [*command, "--latency", "-s", _LUA, target.url, "--", run, load.body, *heads]
    )
    percentiles = re.search(r"percentiles(.*)", output)
    return Measured(
        parse_number(r"Requests/sec: +([\d.]+)", output),
        {
            float(percentile): int(microseconds) / 1000
            for percentile, microseconds in re.findall(
                r"([\d.]+)=(\d+)", percentiles[1] if percentiles else ""
            )
        },
        int(parse_number(r"(\d+) requests in", output)),
    )


def _ab(target: Target, load: Load, seconds: float) -> Measured:
    (lines,) = load.heads
    headers = [word for line in lines for word in ("-H", line)]
    seconds_taken, requests = 0.0, 0
    run_number = 0
    while seconds_taken < seconds or run_number % 2:
        is_step_back = run_number % 2 and not load.up_only
        path = (target.down if is_step_back else target.up) if load.steps else target.read
        output = _run(
            load,
            [
                *("ab", "-q", "-l", "-c", str(load.connections)),
                *("-n", str(AB_STEPS), *headers, target.url + path),
            ],
        )
        requests += int(parse_number(r"Complete requests: +(\d+)", output))
        seconds_taken += parse_number(r"Time taken for tests: +([\d.]+)", output)
        run_number += 1
    return Measured(requests / seconds_taken, requests=requests)
