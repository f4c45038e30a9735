"""
The time that all connections together may spend on parsing in one turn of the event loop.

A client can send input that costs much more to parse than to send, as a body in chunks of
one byte, on thousands of connections at once.  A bound for each connection would not keep
their sum short, so there is one budget for all.  When it is used up, connections wait in a
queue, and each gets a small piece of the next turns.  Requests that are found by their
bytes or by a template need no parsing, and never wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

#: A new client is served after a few such turns at the latest.
MAX_SECONDS_PER_TURN = 0.02


class ParsingBudget:
    """
    The budget of one worker.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        seconds: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        @param call_soon: makes a call in the next turn of the event loop.
        """
        self.seconds = seconds
        self._call_soon = call_soon
        self._left = MAX_SECONDS_PER_TURN
        self._queue: deque[Callable[[], None]] = deque()
        self._first: deque[Callable[[], None]] = deque()
        self._renewal_scheduled = False

    @property
    def has_time(self) -> bool:
        """
        Return whether this turn has time left, even if connections wait for some of it.
        """
        return self._left > 0

    @property
    def is_spent(self) -> bool:
        return self._left <= 0 or bool(self._queue or self._first)

    def spend(self, seconds: float) -> None:
        self._left -= seconds
        if not self._renewal_scheduled:
            self._renewal_scheduled = True
            self._call_soon(self._renew)

    def wait(self, parse: Callable[[], None], *, first: bool = False) -> None:
        """
        Call C{parse} in a later turn.

        @param first: before all that have had a piece of a turn since their input arrived.
        """
        (self._first if first else self._queue).append(parse)
        self.spend(0)

    def _renew(self) -> None:
        self._renewal_scheduled = False
        self._left = MAX_SECONDS_PER_TURN
        # A connection that waits again comes behind all others.
        while (queue := self._first or self._queue) and self._left > 0:
            queue.popleft()()
        if queue:
            self.spend(0)
