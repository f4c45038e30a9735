"""
A reactor whose timers ignore the wall clock, and functions that are called periodically.
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
    Return the reactor of this process.

    If none is chosen yet, install one with a monotonic clock.  Twisted's own reactors use
    the wall clock.  If an operator set this clock forward, all workers would seem silent at
    once.  If an operator set it back by an hour, no worker would seem silent for an hour.
    The reactor on uvloop has a monotonic clock, too.  Any other reactor that C{twistd
    --reactor} names has its own clock.
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
    A function that is called again and again, even after an exception.

    A C{LoopingCall} ends when its function raises an exception.  One error must not end the
    heartbeats, so this class logs the exception, and makes the next call at its time.

    If the function returns a C{Deferred}, the next call waits until the C{Deferred} has
    fired.  A C{Deferred} that fails counts as an exception.
    """

    _log = Logger()

    def __init__(self, function: Callable[[], object], clock: IReactorTime) -> None:
        self._function = function
        self._loop = LoopingCall(self._call)
        self._loop.clock = clock

    def start(self, interval: float, *, now: bool = False) -> None:
        """
        Begin the calls.

        @param interval: seconds from one call to the next.  If a call takes longer, the
            next one is late, and the missed ones are left out.
        @param now: whether to make the first call at once, and not after the interval.
        """
        self._loop.start(interval, now=now)

    def stop(self) -> None:
        """
        Make no more calls.  L{stop} may be called again.
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
