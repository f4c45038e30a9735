"""
The counters of a committer.

They are plain numbers, which L{pexservice.metrics} reads for a response to C{/metrics}.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf

from pexservice.core.cursor import Transition

#: The labels of a step that failed: it is not stored, or it is unknown whether it is.
NOT_STORED, UNKNOWN = "not_taken", "unknown"

#: The values of the label C{outcome} in the metrics of steps.
#: L{pexservice.commit.interface.Outcome} explains the first three.
OUTCOMES = ("moved", "replayed", "unmet", NOT_STORED, UNKNOWN)

#: The upper bounds of the buckets of commit durations.  The first bound is less than half
#: the duration on the reference disk.  The last bound is the default of C{--watchdog}.
DURATION_BOUNDS_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

#: The upper bounds of the buckets of batch sizes.  The size of a batch is the number of its
#: transitions.
SIZE_BOUNDS = tuple(float(1 << power) for power in range(12))


class Histogram:
    """
    A histogram: how many values were in each of several buckets.

    @ivar counts: how many values were in each bucket; the last bucket is for the values
        above all bounds.
    @ivar total: the sum of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """
        @param bounds: the greatest value of each bucket, in ascending order.
        """
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """
        Yield each bound, at last infinity, with the number of values up to this bound.
        """
        count = 0
        for bound, more in zip((*self._bounds, inf), self.counts, strict=True):
            count += more
            yield bound, count


class Counts:
    """
    The counters of one committer.

    @ivar durations: how long the successful commits took, in seconds.
    @ivar sizes: how many transitions these commits had.
    """

    def __init__(self) -> None:
        self.durations = Histogram(DURATION_BOUNDS_SECONDS)
        self.sizes = Histogram(SIZE_BOUNDS)
        self._outcomes = {
            outcome: {kind.code: 0 for kind in Transition} for outcome in OUTCOMES
        }

    def count_commit(self, size: int, seconds: float) -> None:
        self.durations.observe(seconds)
        self.sizes.observe(size)

    def count(self, outcome: str, transitions: bytes | bytearray) -> None:
        """
        Count C{transitions} that had this C{outcome}.

        @param outcome: one of L{OUTCOMES}.
        @param transitions: the codes of the transitions, one byte each.
        """
        counts = self._outcomes[outcome]
        for code in counts:
            counts[code] += transitions.count(code)

    def transitions(self) -> Iterator[tuple[Transition, str, int]]:
        for outcome, counts in self._outcomes.items():
            for code, count in counts.items():
                yield Transition(code), outcome, count
