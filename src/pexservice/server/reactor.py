"""
The reactor of a worker: Twisted's asyncio reactor, on the event loop of uvloop or asyncio.

The connections use the transports of an asyncio event loop, so a worker needs a reactor on
such a loop.  C{twistd --reactor uvloop} selects the reactor of this module.
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
    Log an error of the event loop.

    Without this function, the event loop would write the error to standard error, which a
    daemon does not have.
    """
    error = context.get("exception")
    if error is None:
        _log.error("{message}", message=context["message"])
    else:
        _log.failure("{message}", Failure(error), message=context["message"])


class EventLoopReactor(AsyncioSelectorReactor):
    """
    Twisted's asyncio reactor, with a monotonic clock and cheap calls from threads.

    @ivar loop: the event loop that the reactor runs on.
    """

    loop: AbstractEventLoop

    #: The reactors of Twisted use the wall clock, which an operator may set.
    seconds = staticmethod(time.monotonic)

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        loop.set_exception_handler(_log_error)
        super().__init__(loop)

    def startRunning(self, installSignalHandlers: bool = True) -> None:  # noqa: FBT001, FBT002 the interface's
        """
        Begin to run, and reap child processes when they end.

        Python writes the numbers of signals to a file descriptor, from which Twisted learns
        that a child has ended.  uvloop replaces this file descriptor, so SIGCHLD needs a
        handler.
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

        The method of Twisted would use a timer, which costs 8 microseconds.
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
    Return the reactor of this process.  If there is none yet, install one for a worker.
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
        # This reactor of Twisted runs on the thread's event loop.
        return asyncio.get_event_loop()
    raise Misconfigured(
        f"the reactor {type(reactor).__name__} cannot carry a worker's connections;"
        " use twistd --reactor=uvloop or --reactor=asyncio"
    )
