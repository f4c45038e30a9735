"""
A load of steps, and an honest count of their outcomes.

Every answered step has a revision of its own, and the history has the step that was made
at each revision; so a lost or doubled step shows there, whatever the client believes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, gatherResults

from pexservice.client import Cursor, OutcomeUnknown

#: How often progress is shown.  Seconds.
_SHOWN = 0.1


@frozen(kw_only=True)
class Found:
    """
    The result of a load.

    @ivar answered: the steps that were answered.
    @ivar seconds: how long the load took.
    @ivar rate: answered steps a second.
    @ivar median: the median time of a step, in milliseconds.
    @ivar p99: the 99th percentile of those times, in milliseconds.
    @ivar longest: the longest of those times, in milliseconds.
    @ivar pause: the longest time without any answer, in milliseconds.
    @ivar replayed: steps that had been made already when they were sent again.
    @ivar unknown: steps that were not answered before their deadline.
    @ivar lost: answers that the history does not have, or whose revision another answer
        had too.
    @ivar doubled: steps in the history that no answer belongs to: made twice, of an unknown
        outcome, or another client's.
    @ivar unseen: answered steps that the history has forgotten since.
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

    def words(self) -> str:
        """
        Return the result as text for people.
        """
        lines = [
            f"{self.answered} steps in {self.seconds:.1f} s: {self.rate:.0f} a second",
            f"{self.median:.1f} ms at the median, {self.p99:.1f} ms for 99 of 100,"
            f" {self.longest:.0f} ms at the longest",
            f"the longest pause without an answer: {self.pause:.0f} ms",
            f"sent again and found made: {self.replayed}; outcome unknown: {self.unknown}",
            f"by the history: lost {self.lost}, doubled {self.doubled}"
            + (" (or another client's, or of unknown outcome)" if self.doubled else ""),
        ]
        if self.unseen:
            lines.append(f"the history has forgotten {self.unseen} of them already")
        return "\n".join(lines)


@define(eq=False)
class Load:
    """
    The record that the clients of a load keep.

    @ivar answered: the position of each answer, by its revision.
    @ivar times: how long each answered step took, in seconds.
    @ivar merged: how many answers had a revision that another answer had too.
    """

    clock: Callable[[], float]
    answered: dict[int, int] = Factory(dict)
    times: list[float] = Factory(list)
    last: float = 0.0
    pause: float = 0.0
    replayed: int = 0
    unknown: int = 0
    merged: int = 0

    async def step(self, cursor: Cursor) -> None:
        """
        Make one step, and record its answer.
        """
        began = self.clock()
        with suppress(OutcomeUnknown):
            state = await cursor.next()
            now = self.clock()
            self.merged += state.revision in self.answered
            self.answered[state.revision] = state.position
            self.replayed += state.replayed
            self.times.append(now - began)
            self.pause = max(self.pause, now - self.last)
            self.last = now
            return
        self.unknown += 1


async def make_load(
    cursor: Cursor,
    connections: int,
    seconds: float,
    show: Callable[[str, float], object],
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """
    Make steps for C{seconds}, C{connections} at once, and count them.

    @param show: called with words about the progress, and how much is done, in percent.
    """
    before = await cursor.current()
    start = clock()
    load = Load(clock, last=start)
    shown = start

    async def client() -> None:
        nonlocal shown
        while (now := clock()) < start + seconds:
            if now >= shown + _SHOWN:
                shown = now
                show(f"{len(load.times)} steps", 100 * (now - start) / seconds)
            await load.step(cursor)

    clients = [Deferred.fromCoroutine(client()) for _ in range(connections)]
    await gatherResults(clients, consumeErrors=True)
    end = clock()
    took = end - start
    load.pause = max(load.pause, end - load.last)
    show("reading the history", 100)
    after = await cursor.current()
    rows = {
        step.revision: step.position
        async for step in cursor.history(
            before=after.revision + 1, limit=after.revision - before.revision
        )
    }
    oldest = min(rows, default=after.revision + 1)
    seen = {each: at for each, at in load.answered.items() if each >= oldest}
    times = sorted(load.times) or [0.0]
    return Found(
        answered=len(load.times),
        seconds=round(took, 3),
        rate=round(len(load.times) / took, 1),
        median=_milliseconds(times[len(times) // 2]),
        p99=_milliseconds(times[len(times) * 99 // 100]),
        longest=_milliseconds(times[-1]),
        pause=_milliseconds(load.pause),
        replayed=load.replayed,
        unknown=load.unknown,
        lost=load.merged + sum(rows.get(each) != at for each, at in seen.items()),
        doubled=after.revision - before.revision - len(load.answered),
        unseen=len(load.answered) - len(seen),
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
