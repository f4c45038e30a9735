"""
Calls that are repeated at an interval for as long as the process runs.

A C{LoopingCall} whose function raises is over for good, with one line in the log.  A
sign of life, a sweep or a clock must not end by one error, so an error is logged here
and the next call comes at its time.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure


class Periodic:
    """
    A function that is called again and again, whatever it raises.

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
