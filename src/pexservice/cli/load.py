"""
The load of C{pexctl load}, which compares the responses with the history afterwards.

Each acknowledged step must have its own revision, and the history must have a step with
this revision and the position of the response.  So the comparison finds lost and doubled
steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults

from pexservice.client import Cursor, CursorError, OutcomeUnknown


@frozen(kw_only=True)
class Report:
    """
    The result of a load.  All times except C{seconds} are in milliseconds.

    @ivar answered: the number of acknowledged steps.
    @ivar seconds: how long the load took.
    @ivar rate: acknowledged steps per second.
    @ivar median: the median of the times from a step to its response.
    @ivar pause: the longest time without a response.
    @ivar replayed: the number of steps that an earlier attempt had made.
    @ivar unknown: the number of steps with an unknown outcome.
    @ivar not_made: the number of steps that were surely not made before their deadline.
    @ivar lost: the number of acknowledged steps that the history does not confirm.  It has
        no such step, or another position, or two responses have the same revision.
    @ivar doubled: the number of steps in the history that were not acknowledged.  They were
        made twice, have an unknown outcome, or are another client's.
    @ivar unseen: the number of acknowledged steps that the history no longer keeps.

    C{lost} and C{doubled} are C{None} if the load was interrupted before the comparison.
    """

    answered: int
    seconds: float
    rate: float
    median: float
    p99: float
    longest: float
    pause: float
    replayed: int
    unknown: int
    not_made: int = 0
    lost: int | None = None
    doubled: int | None = None
    unseen: int = 0

    def text(self) -> str:
        comparison = "not compared with the history"
        if self.lost is not None:
            counts = f"lost {self.lost}, doubled {self.doubled}"
            comparison = f"according to the history: {counts}"
        if self.doubled:
            comparison += " (or another client's, or of unknown outcome)"
        lines = [
            f"{self.answered} steps in {self.seconds:.1f} s: {self.rate:.0f} per second",
            f"median {self.median:.1f} ms, 99th percentile {self.p99:.1f} ms,"
            f" longest {self.longest:.0f} ms",
            f"longest pause without a response: {self.pause:.0f} ms",
            f"replayed: {self.replayed}; outcome unknown: {self.unknown}",
            comparison,
        ]
        if self.not_made:
            lines.append(f"not made before the deadline: {self.not_made}")
        if self.unseen:
            lines.append(f"the history no longer keeps {self.unseen} of them")
        return "\n".join(lines)


@define
class Load:
    """
    A load of one service, and the outcomes of its steps.

    @ivar seconds: for how many seconds the load begins new steps.
    @ivar show: called with the progress in words and in percent.
    @ivar start: when the first step began, by C{clock}; C{None} before the load.
    """

    seconds: float
    show: Callable[[str, float], object]
    clock: Callable[[], float] = time.monotonic
    start: float | None = None
    _end: float | None = None
    _shown_percent: int = -1
    # When each response to a step arrived, and how long its step took.
    _arrivals: list[float] = field(factory=list)
    _durations: list[float] = field(factory=list)
    # The position in each response, by the revision in the response.
    _positions: dict[int, int] = field(factory=dict)
    _replayed: int = 0
    _unknown: int = 0
    _not_made: int = 0

    async def run(self, cursor: Cursor, concurrency: int) -> Report:
        """
        Make steps, C{concurrency} at a time, and compare the responses with the history.
        """
        before = await cursor.current()
        self.start = self.clock()
        clients = [
            Deferred.fromCoroutine(self._make_steps(cursor, self.start))
            for _ in range(concurrency)
        ]
        try:
            await gatherResults(clients, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        self._end = self.clock()
        self.show("reading the history", 100)
        after = await cursor.current()
        steps = after.revision - before.revision
        history = {
            step.revision: step.position
            async for step in cursor.history(before=after.revision + 1, limit=steps)
        }
        oldest = min(history, default=after.revision + 1)
        kept = [revision for revision in self._positions if revision >= oldest]
        wrong = sum(history.get(revision) != self._positions[revision] for revision in kept)
        repeated = len(self._arrivals) - len(self._positions)
        # If a response has a higher revision than the store, the store has lost this step.
        made = sum(revision <= after.revision for revision in self._positions)
        return self.report(
            lost=repeated + wrong,
            doubled=steps - made,
            unseen=len(self._positions) - len(kept),
        )

    async def _make_steps(self, cursor: Cursor, start: float) -> None:
        while (began := self.clock()) < start + self.seconds:
            percent = int(100 * (began - start) / self.seconds)
            if percent > self._shown_percent:
                self._shown_percent = percent
                self.show(f"{len(self._arrivals)} steps", percent)
            try:
                state = await cursor.next()
            except OutcomeUnknown as error:
                self._unknown += error.maybe_performed
                self._not_made += not error.maybe_performed
                continue
            except CancelledError:
                self._unknown += 1
                raise
            except CursorError as error:
                self._unknown += error.maybe_performed
                raise
            self._arrivals.append(self.clock())
            self._durations.append(self._arrivals[-1] - began)
            self._positions[state.revision] = state.position
            self._replayed += state.replayed

    def report(self, **comparison: int) -> Report:
        """
        Return the result up to now.

        @param comparison: the fields C{lost}, C{doubled} and C{unseen}, if they are known.
        """
        start, end = self.start or 0.0, self._end or self.clock()
        moments = pairwise([start, *self._arrivals, end])
        durations = sorted(self._durations) or [0.0]
        return Report(
            answered=len(self._arrivals),
            seconds=round(end - start, 3),
            rate=round(len(self._arrivals) / (end - start), 1),
            median=_milliseconds(durations[len(durations) // 2]),
            p99=_milliseconds(durations[len(durations) * 99 // 100]),
            longest=_milliseconds(durations[-1]),
            pause=_milliseconds(max(later - earlier for earlier, later in moments)),
            replayed=self._replayed,
            unknown=self._unknown,
            not_made=self._not_made,
            **comparison,
        )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
