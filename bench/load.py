"""
The load: Debian's ab and wrk, run and read.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from attrs import Factory, frozen

#: ab cannot alternate, so it makes so many steps up and then as many down.
AB_STEPS = 1000

_LUA = str(Path(__file__).with_name("steps.lua"))


class BadAnswers(Exception):
    """
    What came back is not what should have.
    """


@frozen
class Target:
    """
    A server under load.

    @ivar url: without a path.
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

    def revision(self) -> int:
        """
        How many steps it has acknowledged.
        """
        with urlopen(self.url + self.read) as answer:  # noqa: S310 our own URL
            return int(answer.headers["Pex-Revision"])


@frozen
class Load:
    """
    @ivar tool: C{ab}, which opens a connection for each request, or C{wrk}.
    @ivar connections: at a time.
    @ivar steps: to and fro, or else looks, or always up.
    @ivar one_core: the client on the first core, where the server is.
    """

    tool: str
    connections: int
    steps: bool = True
    one_core: bool = False
    up_only: bool = False

    def __str__(self) -> str:
        what = "steps" if self.steps else "`/current`"
        where = ", one core" if self.one_core else ""
        return f"{what}, {self.tool} c{self.connections}{where}"


@frozen
class Measured:
    """
    @ivar rate: requests a second.
    @ivar percentiles: milliseconds by percentile.
    """

    rate: float
    percentiles: dict[float, float] = Factory(dict)


def measure(target: Target, load: Load, seconds: float) -> Measured:
    """
    Run C{load} on C{target} for about C{seconds}, and check what came back.

    @raise BadAnswers: an answer was no success, or there are not as many steps as
        answers.
    """
    counted = target.counts and load.steps
    before = target.revision() if counted else 0
    requests, measured = (_ab if load.tool == "ab" else _wrk)(target, load, seconds)
    if counted:
        grown = target.revision() - before
        # What was under way when wrk stopped was taken and is not in its count.
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


def _wrk(target: Target, load: Load, seconds: float) -> tuple[int, Measured]:
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds:g}s", "--latency"]
    paths = (target.up, target.up if load.up_only else target.down)
    if not load.steps:
        paths = (target.read, target.read)
    said = _run(load, [*command, "-s", _LUA, target.url, "--", *paths])
    percentiles = re.search(r"percentiles(.*)", said)
    return int(_found(r"(\d+) requests in", said)), Measured(
        _found(r"Requests/sec: +([\d.]+)", said),
        {
            float(percentile): int(microseconds) / 1000
            for percentile, microseconds in re.findall(
                r"([\d.]+)=(\d+)", percentiles[1] if percentiles else ""
            )
        },
    )


def _ab(target: Target, load: Load, seconds: float) -> tuple[int, Measured]:
    taken, requests = 0.0, 0
    turn = 0
    while taken < seconds or turn % 2:
        path = (target.up, target.down)[turn % 2] if load.steps else target.read
        said = _run(
            load,
            [
                *("ab", "-q", "-l", "-c", str(load.connections)),
                *("-n", str(AB_STEPS), target.url + path),
            ],
        )
        requests += int(_found(r"Complete requests: +(\d+)", said))
        taken += _found(r"Time taken for tests: +([\d.]+)", said)
        turn += 1
    return requests, Measured(requests / taken)
