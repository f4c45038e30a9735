"""
The comparisons of the benchmark, and the ratios that pexservice must reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import Factory, frozen

from bench.load import Load, Measured
from bench.peers import CEILING, FLOOR, OFF, OURS

#: Stands for all servers of C{--peer} and C{--one-core-peer}.
PEER = "(peer)"

WEBDIS = "webdis + Redis"


@frozen
class Cell:
    """
    A load, and the servers that pexservice is compared with under it.

    @ivar min_ratios: by server, the minimum of pexservice's rate divided by the server's.
    @ivar off_min_ratios: the same for pexservice with C{--synchronous-commit off}.
    @ivar reported_only: servers that are measured without a minimum.
    """

    load: Load
    min_ratios: Mapping[str, float]
    off_min_ratios: Mapping[str, float] = Factory(dict)
    reported_only: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """
        Return the names of the servers that are measured in turns.
        """
        off = [OFF] if self.off_min_ratios else []
        return [OURS, *off, *self.min_ratios, *self.reported_only]


def _steps(tool: str, connections: int, peer: float, **more: float) -> Cell:
    min_ratios = {PEER: peer, WEBDIS: 1.1, FLOOR: 4.0, **more}
    # CEILING is an upper bound for every server on uvloop, with or without a disk.
    return Cell(
        Load(tool, connections),
        min_ratios,
        off_min_ratios={PEER: 1.15},
        reported_only=(CEILING,),
    )


CELLS = (
    Cell(
        Load("wrk", 64, steps=False),
        {CEILING: 0.85, PEER: 1.4, "nginx": 1.0, FLOOR: 4.0},
        reported_only=("granian", "uvicorn"),
    ),
    Cell(
        Load("ab", 10, steps=False),
        {PEER: 1.15, "nginx": 1.0, FLOOR: 4.0},
        reported_only=(CEILING, "granian", "uvicorn"),
    ),
    _steps("wrk", 10, 0.0),
    _steps("wrk", 64, 1.0, granian=1.0),
    _steps("wrk", 256, 1.25),
    _steps("ab", 10, 0.85),
    _steps("ab", 50, 1.2),
)

#: Loads with the server and the client on the first core.
ONE_CORE = (
    Cell(Load("ab", 10, one_core=True), {PEER: 0.9}),
    Cell(Load("wrk", 64, one_core=True), {PEER: 0.9}),
)

#: Under this load, the 99th percentile of pexservice's latency is at most so many times the
#: peer's.
LATENCY = Load("wrk", 64)
MAX_LATENCY_RATIO = 3.0

#: With few connections, the rate of durable steps is at most the number of connections
#: divided by the duration of a commit and of a request without a commit.
BOUND = Load("wrk", 10)
MIN_BOUND_RATIO = 0.75

#: The numbers of connections in a plot.
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: At these positions, a rate is at least so much of the rate with a constant text.
POSITIONS = (0, 1_000, 10_000, 100_000, 1_000_000)
MIN_CONSTANT_RATIO = 0.8


@frozen
class Row:
    """
    A row of the table.

    @ivar min_ratio: the minimum; L{None} if there is none.
    """

    cell: str
    ours: float
    against: str
    theirs: float
    min_ratio: float | None
    unit: str = "/s"

    @property
    def ratio(self) -> float:
        """
        Return how many times better than the other server pexservice is.
        """
        if self.unit == "ms":
            return self.theirs / self.ours
        return self.ours / self.theirs


def rows(cell: Cell, medians: Mapping[str, Measured], peers: Sequence[str]) -> list[Row]:
    """
    Return the rows of C{cell} for all servers that were measured.
    """
    compared_rows = []
    reported_only = dict.fromkeys(cell.reported_only)
    for name, min_ratios in (
        (OURS, {**cell.min_ratios, **reported_only}),
        (OFF, cell.off_min_ratios),
    ):
        for against, ratio in min_ratios.items():
            for other in peers if against == PEER else [against]:
                if other in medians and ratio != 0:
                    label = str(cell.load) + (", answer first" if name == OFF else "")
                    compared_rows.append(
                        Row(label, medians[name].rate, other, medians[other].rate, ratio)
                    )
    return compared_rows
