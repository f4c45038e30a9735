"""
Timers that a step of the wall clock does not move, and calls that are repeated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.main import installReactor
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

_REACTOR = "twisted.internet.reactor"


def the_reactor() -> Any:
    """
    Return the process's reactor, and install a steady one if none is chosen yet.

    The timers of Twisted's own reactors go by the wall clock: a step of that would condemn
    every silent worker at once, or none for as long as the step was.  The uvloop reactor is
    as steady; any other that C{twistd --reactor} names keeps its own clock.
    """
    if _REACTOR not in sys.modules:
        from twisted.internet.epollreactor import EPollReactor  # noqa: PLC0415 rarely needed

        class SteadyReactor(EPollReactor):
            seconds = staticmethod(time.monotonic)

        installReactor(SteadyReactor())
    from twisted.internet import reactor  # noqa: PLC0415 it is chosen by now

    return reactor


class Periodic:
    """
    A function that is called again and again, whatever it raises.

    A C{LoopingCall} whose function raises is over for good, with one line in the log.
    Heartbeats must not end by one error, so an error is logged here and the next call comes
    at its time.

    A function that returns a C{Deferred} is not called again before that has fired; a
    C{Deferred} that fails counts like an exception.
    """

    _log = Logger()

    def __init__(self, function: Callable[[], object], clock: IReactorTime) -> None:
        self._function = function
        self._loop = LoopingCall(self._call)
        self._loop.clock = clock

    def start(self, interval: float, *, now: bool = False) -> None:
        """
        Begin the calls.

        @param interval: seconds from one call to the next; a call that takes longer
            makes the next one late, and none is made up for.
        @param now: make the first call at once, rather than after the interval.
        """
        self._loop.start(interval, now=now)

    def stop(self) -> None:
        """
        Make no more calls; stopping twice does no harm.
        """
        if self._loop.running:
            self._loop.stop()

    def _call(self) -> Deferred[object]:
        return maybeDeferred(self._function).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._log.failure(
            "{function} failed and is called again at its time",
            failure=failure,
            function=self._function,
        )
