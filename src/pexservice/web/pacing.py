"""
Long work, one piece at a time, with rest in between.

A page of the history takes milliseconds to make.  A thousand clients that ask for
one at the same moment would all be answered in one turn of the reactor, and
everybody else would wait for as long as that takes.  One page in each turn is not
enough either: on uvloop a turn takes one new connection, so connections would come
in as slowly as pages are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

T = TypeVar("T")

Later = Callable[[float, Callable[[], None]], object]

#: How long the rest after a piece of work is, in times of how long that piece took.
REST = 2


class Pacing:
    """
    A queue of work: the first call is made at once, the others one by one.
    """

    def __init__(
        self, later: Later | None, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        """
        @param later: the reactor's C{callLater}; C{None} to let no call wait.
        """
        self._later = later
        self._seconds = seconds
        self._busy = False
        # A dictionary, since calls in its middle may be cancelled.
        self._waiting: dict[Deferred[None], None] = {}

    def run(self, work: Callable[[], T | Deferred[T]]) -> Deferred[T]:
        """
        Do C{work} when its time has come.

        @return: what C{work} returns or raises; until its time has come, it may be
            cancelled.
        """
        turn: Deferred[None]
        if self._later is None or not self._busy:
            turn = succeed(None)
        else:
            turn = Deferred(self._waiting.pop)
            self._waiting[turn] = None
        return turn.addCallback(lambda _: self._do(work))

    def _do(self, work: Callable[[], T | Deferred[T]]) -> T | Deferred[T]:
        self._busy = True
        began = self._seconds()
        try:
            return work()
        finally:
            if self._later is not None:
                self._later(REST * (self._seconds() - began), self._next)

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            first = next(iter(self._waiting))
            del self._waiting[first]
            first.callback(None)
