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
from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor
from twisted.internet.process import reapAllProcesses
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.process.exit_status import Misconfigured

_log = Logger()


def _log_error(_: AbstractEventLoop, context: dict[str, Any]) -> None:
    """
    Log an error of the event loop, as Twisted's reactors log those of their calls.

    The event loop itself would write it to a standard error that a daemon does not have.
    """
    error = context.get("exception")
    if error is None:
        _log.error("{message}", message=context["message"])
    else:
        _log.failure("{message}", Failure(error), message=context["message"])


class EventLoopReactor(AsyncioSelectorReactor):
    """
    Twisted's asyncio reactor, with a steady clock and cheap calls from threads.

    @ivar loop: the event loop under it.
    """

    loop: AbstractEventLoop

    #: Twisted's asyncio reactor keeps its timers by the wall clock, as its others do.
    seconds = staticmethod(time.monotonic)

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        loop.set_exception_handler(_log_error)
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

    def callFromThread(  # type: ignore[override]
        self,
        callable: Callable[..., Any],  # noqa: A002 the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        """
        Make a call in the reactor's thread.

        Twisted would make one of its timers for it, which costs 8 microseconds.
        """
        self.loop.call_soon_threadsafe(partial(callable, *args, **kwargs))


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
