"""
The load of C{pexctl load}, and the comparison of its outcomes with the history.

Every answered step must have a unique revision, and the history has the step of each
revision.  So the history shows a lost or doubled step, even if the client did not notice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from pexservice.client import Cursor, OutcomeUnknown

_PROGRESS_INTERVAL_SECONDS = 0.1


@frozen(kw_only=True)
class Report:
    """
    The result of a load; times are in milliseconds.

    @ivar answered: how many steps were answered.
    @ivar seconds: how long the load took.
    @ivar rate: answered steps per second.
    @ivar pause: the longest time without a response.
    @ivar replayed: how many steps an earlier attempt had already made.
    @ivar unknown: how many steps had no response before their deadline.
    @ivar lost: how many responses the history contradicts, or had a revision that another
        response had, too.
    @ivar doubled: how many steps of the history had no response: they were made twice, have
        an unknown outcome, or are another client's.
    @ivar unseen: how many answered steps the history no longer keeps.

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
    lost: int | None
    doubled: int | None
    unseen: int

    def text(self) -> str:
        lines = [
            f"{self.answered} steps in {self.seconds:.1f} s: {self.rate:.0f} per second",
            f"median {self.median:.1f} ms, 99th percentile {self.p99:.1f} ms,"
            f" longest {self.longest:.0f} ms",
            f"longest pause without a response: {self.pause:.0f} ms",
            f"replayed: {self.replayed}; outcome unknown: {self.unknown}",
            "not compared with the history"
            if self.lost is None
            else f"according to the history: lost {self.lost}, doubled {self.doubled}"
            + (" (or another client's, or of unknown outcome)" if self.doubled else ""),
        ]
        if self.unseen:
            lines.append(f"the history no longer keeps {self.unseen} of them")
        return "\n".join(lines)


class Load:
    """
    A load of one service, and the outcomes of its steps.

    @ivar start: when the first step began, by the clock; C{None} before.
    """

    def __init__(
        self,
        seconds: float,
        show: Callable[[str, float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Prepare a load, without making steps.

        @param seconds: how long new steps begin.
        @param show: called with the progress in words and in percent.
        """
        self._seconds, self._show, self._clock = seconds, show, clock
        self.start: float | None = None
        self._end: float | None = None
        # By revision: the position in the response.
        self._positions: dict[int, int] = {}
        self._times: list[float] = []
        self._counts = Counter[str]()
        self._pause = self._last_response_at = self._shown_at = 0.0

    async def run(self, cursor: Cursor, connections: int) -> Report:
        """
        Make steps, C{connections} at a time, and compare them with the history.
        """
        before = await cursor.current()
        self.start = self._last_response_at = self._shown_at = self._clock()
        clients = [
            Deferred.fromCoroutine(self._make_steps(cursor, self.start))
            for _ in range(connections)
        ]
        await gatherResults(clients, consumeErrors=True)
        self._end = self._clock()
        self._show("reading the history", 100)
        after = await cursor.current()
        steps = after.revision - before.revision
        history = {
            step.revision: step.position
            async for step in cursor.history(before=after.revision + 1, limit=steps)
        }
        oldest = min(history, default=after.revision + 1)
        kept = [revision for revision in self._positions if revision >= oldest]
        wrong = sum(history.get(revision) != self._positions[revision] for revision in kept)
        return self.report(
            lost=self._counts["repeated"] + wrong,
            doubled=steps - len(self._positions),
            unseen=len(self._positions) - len(kept),
        )

    async def _make_steps(self, cursor: Cursor, start: float) -> None:
        while (began := self._clock()) < start + self._seconds:
            if began >= self._shown_at + _PROGRESS_INTERVAL_SECONDS:
                self._shown_at = began
                self._show(
                    f"{len(self._times)} steps", 100 * (began - start) / self._seconds
                )
            try:
                state = await cursor.next()
            except OutcomeUnknown:
                self._counts["unknown"] += 1
                continue
            except CancelledError:
                self._counts["unknown"] += 1
                raise
            now = self._clock()
            self._counts["repeated"] += state.revision in self._positions
            self._counts["replayed"] += state.replayed
            self._positions[state.revision] = state.position
            self._times.append(now - began)
            self._pause = max(self._pause, now - self._last_response_at)
            self._last_response_at = now

    def report(
        self, lost: int | None = None, doubled: int | None = None, unseen: int = 0
    ) -> Report:
        """
        Return the result up to now, with the outcome of the comparison if there was one.
        """
        start, end = self.start or 0.0, self._end or self._clock()
        ordered = sorted(self._times) or [0.0]
        return Report(
            answered=len(self._times),
            seconds=round(end - start, 3),
            rate=round(len(self._times) / (end - start), 1),
            median=_milliseconds(ordered[len(ordered) // 2]),
            p99=_milliseconds(ordered[len(ordered) * 99 // 100]),
            longest=_milliseconds(ordered[-1]),
            pause=_milliseconds(max(self._pause, end - self._last_response_at)),
            replayed=self._counts["replayed"],
            unknown=self._counts["unknown"],
            lost=lost,
            doubled=doubled,
            unseen=unseen,
        )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
