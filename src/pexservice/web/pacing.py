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

from twisted.internet.defer import Deferred, DeferredLock

T = TypeVar("T")

Later = Callable[[float, Callable[[], None]], object]

#: How long the rest after a piece of work is, in times of how long that piece took.
REST = 2


class Pacing:
    """
    A queue of work: the first call is made at once, the others one by one.
    """

    def __init__(self, later: Later, seconds: Callable[[], float] = time.monotonic) -> None:
        """
        @param later: the reactor's C{callLater}.
        """
        self._later = later
        self._seconds = seconds
        # Held by the piece that is done, and during the rest after it.
        self._turn = DeferredLock()

    def run(self, work: Callable[[], T | Deferred[T]]) -> Deferred[T]:
        """
        Do C{work} when its time has come.

        @return: what C{work} returns or raises; until its time has come, it may be
            cancelled.
        """
        return self._turn.acquire().addCallback(lambda _: self._do(work))

    def _do(self, work: Callable[[], T | Deferred[T]]) -> T | Deferred[T]:
        began = self._seconds()
        try:
            return work()
        finally:
            self._later(REST * (self._seconds() - began), self._turn.release)
