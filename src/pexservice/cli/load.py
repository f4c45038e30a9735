"""
The load of C{pexctl load}, and an honest count of the outcomes of its steps.

Every answered step has a unique revision, and the history has the step of each revision.
So the history shows a lost or doubled step, whatever the client believes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, gatherResults

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
    @ivar replayed: steps that an earlier attempt had made.
    @ivar unknown: steps without a response before their deadline.
    @ivar lost: responses that the history does not confirm, or whose revision another
        response had too.
    @ivar doubled: steps in the history without a response: made twice, of unknown outcome,
        or by another client.
    @ivar unseen: answered steps that the history no longer keeps.
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
    lost: int
    doubled: int
    unseen: int

    def text(self) -> str:
        lines = [
            f"{self.answered} steps in {self.seconds:.1f} s: {self.rate:.0f} per second",
            f"median {self.median:.1f} ms, 99th percentile {self.p99:.1f} ms,"
            f" longest {self.longest:.0f} ms",
            f"longest pause without a response: {self.pause:.0f} ms",
            f"replayed: {self.replayed}; outcome unknown: {self.unknown}",
            f"according to the history: lost {self.lost}, doubled {self.doubled}"
            + (" (or another client's, or of unknown outcome)" if self.doubled else ""),
        ]
        if self.unseen:
            lines.append(f"the history no longer keeps {self.unseen} of them")
        return "\n".join(lines)


@define(eq=False)
class _Record:
    """
    The common record of a load's clients.

    @ivar positions: the position of each response, by its revision.
    @ivar times: how long each answered step took, in seconds.
    @ivar repeated: how many responses had a revision that another response had too.
    """

    clock: Callable[[], float]
    latest: float
    positions: dict[int, int] = Factory(dict)
    times: list[float] = Factory(list)
    pause: float = 0.0
    replayed: int = 0
    unknown: int = 0
    repeated: int = 0

    async def step(self, cursor: Cursor) -> None:
        """
        Make one step, and record its outcome.
        """
        start = self.clock()
        try:
            state = await cursor.next()
        except OutcomeUnknown:
            self.unknown += 1
            return
        now = self.clock()
        self.repeated += state.revision in self.positions
        self.positions[state.revision] = state.position
        self.replayed += state.replayed
        self.times.append(now - start)
        self.pause = max(self.pause, now - self.latest)
        self.latest = now


async def make_load(
    cursor: Cursor,
    connections: int,
    seconds: float,
    show: Callable[[str, float], object],
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """
    Make steps for C{seconds}, C{connections} at a time, and compare them with the history.

    @param show: called with the progress in words and in percent.
    """
    before = await cursor.current()
    start = clock()
    record = _Record(clock, start)
    shown = start

    async def client() -> None:
        nonlocal shown
        while (now := clock()) < start + seconds:
            if now >= shown + _PROGRESS_INTERVAL_SECONDS:
                shown = now
                show(f"{len(record.times)} steps", 100 * (now - start) / seconds)
            await record.step(cursor)

    clients = [Deferred.fromCoroutine(client()) for _ in range(connections)]
    await gatherResults(clients, consumeErrors=True)
    end = clock()
    record.pause = max(record.pause, end - record.latest)
    show("reading the history", 100)
    after = await cursor.current()
    rows = {
        step.revision: step.position
        async for step in cursor.history(
            before=after.revision + 1, limit=after.revision - before.revision
        )
    }
    oldest = min(rows, default=after.revision + 1)
    kept = {
        revision: position
        for revision, position in record.positions.items()
        if revision >= oldest
    }
    times = sorted(record.times) or [0.0]
    return Report(
        answered=len(record.times),
        seconds=round(end - start, 3),
        rate=round(len(record.times) / (end - start), 1),
        median=_milliseconds(times[len(times) // 2]),
        p99=_milliseconds(times[len(times) * 99 // 100]),
        longest=_milliseconds(times[-1]),
        pause=_milliseconds(record.pause),
        replayed=record.replayed,
        unknown=record.unknown,
        lost=record.repeated
        + sum(rows.get(revision) != position for revision, position in kept.items()),
        doubled=after.revision - before.revision - len(record.positions),
        unseen=len(record.positions) - len(kept),
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
