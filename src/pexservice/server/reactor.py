"""
The reactor of a worker: Twisted's asyncio reactor, on uvloop's event loop or asyncio's own.

Connections are carried by the transports of the event loop, so a worker runs on no other
kind of reactor.  C{twistd --reactor uvloop} names this one.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.main import installReactor
from twisted.internet.process import reapAllProcesses
from twisted.logger import Logger
from zope.interface import implementer

from pexservice.process.exit_status import Misconfigured

_log = Logger()


def _run(call: Callable[[], object]) -> None:
    """
    Make a call, and log its exception, as Twisted's reactors do.

    The event loop would write the exception to a standard error that a daemon does not
    have.
    """
    try:
        call()
    except Exception:  # noqa: BLE001 whatever it is
        _log.failure("a call of the reactor failed")


@implementer(IDelayedCall)
class _NextTurn:
    """
    A call in the next turn of the reactor.
    """

    __slots__ = ("_call", "_called", "_handle", "_reactor", "_time")

    def __init__(self, reactor: EventLoopReactor, call: Callable[[], object]) -> None:
        self._reactor = reactor
        self._call = call
        self._called = False
        self._time = reactor.seconds()
        self._handle: Handle = reactor.loop.call_soon(self._run)

    def _run(self) -> None:
        self._called = True
        _run(self._call)

    def active(self) -> bool:
        """
        Return whether the call is yet to be made.
        """
        return not (self._called or self._handle.cancelled())

    def cancel(self) -> None:
        """
        Have the call not made.
        """
        if self._called:
            raise AlreadyCalled
        if self._handle.cancelled():
            raise AlreadyCancelled
        self._handle.cancel()

    def getTime(self) -> float:
        """
        Return the time at which the call is made, by the reactor's clock.
        """
        return self._time

    def reset(self, secondsFromNow: float) -> None:
        """
        Have the call made in so many seconds.
        """
        self.cancel()
        self._time = self._reactor.seconds() + secondsFromNow
        self._handle = self._reactor.loop.call_later(secondsFromNow, self._run)

    def delay(self, secondsLater: float) -> None:
        """
        Have the call made so many seconds later than it would be.
        """
        self.reset(max(0.0, self._time + secondsLater - self._reactor.seconds()))


class EventLoopReactor(AsyncioSelectorReactor):
    """
    Twisted's asyncio reactor, with a steady clock and cheap calls for the next turn.

    @ivar loop: the event loop under it.
    """

    loop: AbstractEventLoop

    #: Twisted's asyncio reactor keeps its timers by the wall clock, as its others do.
    seconds = staticmethod(time.monotonic)

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        super().__init__(loop)

    def startRunning(self, installSignalHandlers: bool = True) -> None:  # noqa: FBT001, FBT002 the interface's
        """
        Begin to run, and learn of the ends of child processes.

        Twisted learns of them by the file descriptor that the interpreter writes signals
        to, and uvloop puts its own in that place.
        """
        super().startRunning(installSignalHandlers)
        if installSignalHandlers:
            signal.signal(signal.SIGCHLD, lambda *_: self.callFromThread(reapAllProcesses))

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 the interface's name
        *args: object,
        **kwargs: object,
    ) -> Any:
        """
        Make a call later.

        A call for the next turn goes there directly: that costs 1 microsecond, not the 8 of
        Twisted's timers and uvloop's.
        """
        if delay == 0 and not (args or kwargs):
            return _NextTurn(self, callable)
        return super().callLater(delay, callable, *args, **kwargs)

    def callFromThread(  # type: ignore[override]
        self,
        callable: Callable[..., Any],  # noqa: A002 the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        """
        Make a call in the reactor's thread.
        """
        self.loop.call_soon_threadsafe(_run, partial(callable, *args, **kwargs))

    def stop(self) -> None:
        """
        Stop the reactor.
        """
        super().stop()
        # The reactor notices that it is stopped when one of Twisted's timers runs.
        super().callLater(0, lambda: None)


def install() -> None:
    """
    Make the reactor on uvloop's event loop the reactor of this process.
    """
    import uvloop  # noqa: PLC0415 it may be missing

    installReactor(EventLoopReactor(uvloop.new_event_loop()))


def worker_reactor() -> Any:
    """
    Return the reactor of this process; if none is installed yet, install a worker's.
    """
    if "twisted.internet.reactor" not in sys.modules:
        try:
            install()
        except ImportError:
            installReactor(EventLoopReactor(asyncio.new_event_loop()))
    from twisted.internet import reactor  # noqa: PLC0415 it is chosen by now

    return reactor


def event_loop(reactor: object) -> AbstractEventLoop:
    """
    Return the event loop under C{reactor}.

    @raise Misconfigured: there is none.
    """
    if isinstance(reactor, EventLoopReactor):
        return reactor.loop
    if isinstance(reactor, AsyncioSelectorReactor):
        # Twisted makes its loop the thread's.
        return asyncio.get_event_loop()
    raise Misconfigured(
        f"the reactor {type(reactor).__name__} cannot carry a worker's connections;"
        " use twistd --reactor=uvloop or --reactor=asyncio"
    )
