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
    @ivar replayed: how many steps an earlier attempt had already made.
    @ivar unknown: how many steps had no response before their deadline.
    @ivar lost: how many responses the history contradicts, or had a revision that another
        response had, too.
    @ivar doubled: how many steps of the history had no response: they were made twice, have
        an unknown outcome, or are another client's.
    @ivar unseen: how many answered steps the history no longer keeps.
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
    start = shown = last_response_at = clock()
    # By revision: the position in the response.
    positions: dict[int, int] = {}
    times: list[float] = []
    counts = Counter[str]()
    pause = 0.0

    async def make_steps() -> None:
        nonlocal shown, last_response_at, pause
        while (began := clock()) < start + seconds:
            if began >= shown + _PROGRESS_INTERVAL_SECONDS:
                shown = began
                show(f"{len(times)} steps", 100 * (began - start) / seconds)
            try:
                state = await cursor.next()
            except OutcomeUnknown:
                counts["unknown"] += 1
                continue
            now = clock()
            counts["repeated"] += state.revision in positions
            counts["replayed"] += state.replayed
            positions[state.revision] = state.position
            times.append(now - began)
            pause = max(pause, now - last_response_at)
            last_response_at = now

    clients = [Deferred.fromCoroutine(make_steps()) for _ in range(connections)]
    await gatherResults(clients, consumeErrors=True)
    end = clock()
    show("reading the history", 100)
    after = await cursor.current()
    steps = after.revision - before.revision
    history = {
        step.revision: step.position
        async for step in cursor.history(before=after.revision + 1, limit=steps)
    }
    oldest = min(history, default=after.revision + 1)
    kept_revisions = [revision for revision in positions if revision >= oldest]
    wrong = sum(history.get(revision) != positions[revision] for revision in kept_revisions)
    ordered = sorted(times) or [0.0]
    return Report(
        answered=len(times),
        seconds=round(end - start, 3),
        rate=round(len(times) / (end - start), 1),
        median=_milliseconds(ordered[len(ordered) // 2]),
        p99=_milliseconds(ordered[len(ordered) * 99 // 100]),
        longest=_milliseconds(ordered[-1]),
        pause=_milliseconds(max(pause, end - last_response_at)),
        replayed=counts["replayed"],
        unknown=counts["unknown"],
        lost=counts["repeated"] + wrong,
        doubled=steps - len(positions),
        unseen=len(positions) - len(kept_revisions),
    )


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)
