"""
The comparisons of the benchmark, and the ratios that are expected of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import Factory, frozen

from bench.load import Load, Measured
from bench.peers import CEILING, FLOOR, OFF, OURS

#: The name that stands for every server that was named on the command line.
PEER = "(peer)"

WEBDIS = "webdis + Redis"


@frozen
class Cell:
    """
    One kind of load.

    @ivar least: the least ratio to each server that pexservice is compared with.
    @ivar off: the least ratios when pexservice responds before the commit.
    @ivar others: the servers that are measured too, without a least ratio.
    """

    load: Load
    least: Mapping[str, float]
    off: Mapping[str, float] = Factory(dict)
    others: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """
        Return the names of the servers that are measured, in turns.
        """
        off = [OFF] if self.off else []
        return [OURS, *off, *self.least, *self.others]


def _steps(tool: str, connections: int, peer: float, **more: float) -> Cell:
    least = {PEER: peer, WEBDIS: 1.1, FLOOR: 4.0, **more}
    # CEILING bounds every server on uvloop, with or without a disk.
    return Cell(Load(tool, connections), least, off={PEER: 1.15}, others=(CEILING,))


CELLS = (
    Cell(
        Load("wrk", 64, steps=False),
        {CEILING: 0.85, PEER: 1.4, "nginx": 1.0, FLOOR: 4.0},
        others=("granian", "uvicorn"),
    ),
    Cell(
        Load("ab", 10, steps=False),
        {PEER: 1.15, "nginx": 1.0, FLOOR: 4.0},
        others=(CEILING, "granian", "uvicorn"),
    ),
    _steps("wrk", 10, 0.0),
    _steps("wrk", 64, 1.0, granian=1.0),
    _steps("wrk", 256, 1.25),
    _steps("ab", 10, 0.85),
    _steps("ab", 50, 1.2),
)

#: With the server and the client on the first core.
ONE_CORE = (
    Cell(Load("ab", 10, one_core=True), {PEER: 0.9}),
    Cell(Load("wrk", 64, one_core=True), {PEER: 0.9}),
)

#: The load whose latency at the 99th percentile, of durable steps, is compared with the
#: peer's: it is at most so many times the peer's.
LATENCY = Load("wrk", 64)
MOST_LATENCY = 3.0

#: Durable steps with few connections are bounded by c / (a commit + the same request
#: without a store).
BOUND = Load("wrk", 10)
LEAST_OF_BOUND = 0.75

#: The numbers of connections of a plot.
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Positions far along the sequence, where a rate is at least so much of that of the same
#: server with a constant text.
POSITIONS = (0, 1_000, 10_000, 100_000, 1_000_000)
LEAST_OF_CONSTANT = 0.8


@frozen
class Row:
    """
    A line of the table.

    @ivar least: the least ratio; L{None} where the ratio is only told.
    """

    cell: str
    ours: float
    against: str
    theirs: float
    least: float | None
    unit: str = "/s"

    @property
    def ratio(self) -> float:
        """
        Return pexservice's figure divided by the other's; for times the inverse.
        """
        if self.unit == "ms":
            return self.theirs / self.ours
        return self.ours / self.theirs


def rows(cell: Cell, medians: Mapping[str, Measured], peers: Sequence[str]) -> list[Row]:
    """
    Return the rows of C{cell} for the servers that were measured.
    """
    found = []
    only_told = dict.fromkeys(cell.others)
    for name, least in ((OURS, {**cell.least, **only_told}), (OFF, cell.off)):
        for against, ratio in least.items():
            for other in peers if against == PEER else [against]:
                if other in medians and ratio != 0:
                    label = str(cell.load) + (", answer first" if name == OFF else "")
                    found.append(
                        Row(label, medians[name].rate, other, medians[other].rate, ratio)
                    )
    return found
