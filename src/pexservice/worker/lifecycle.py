"""
A worker's duties to the process that started it.

A worker ends with its supervisor, and gives signs of life.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pexservice.process.parent import end_with_parent
from pexservice.process.periodic import Periodic
from pexservice.process.sd_notify import ALIVE, Notifier
from pexservice.settings.options import Settings

#: How many signs of life a worker gives within the watchdog's time.
BEATS = 4


def connect(
    settings: Settings, environment: Mapping[str, str], stop: Callable[[], object]
) -> Notifier:
    """
    Return the notifier to the process that started this one.

    If that process is a supervisor, this process lives no longer than the supervisor.

    @param stop: called in a thread to stop this process in order when its supervisor is
        gone; 0.8 seconds later this process is killed, so that the next supervisor need
        not wait.
    """
    if settings.supervisor is None:
        return Notifier.to_service_manager(environment)
    notifier = Notifier.to_supervisor(settings.supervisor, environment)
    follow(settings.supervisor, stop)
    return notifier


def follow(descriptor: int, stop: Callable[[], object]) -> None:
    """
    End this process with its supervisor, which alone handles the terminal's signals.

    @param descriptor: an end of a pipe whose other end only the supervisor has.
    """
    # Ctrl-C goes to a terminal's whole process group; the supervisor passes it on.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # At SIGABRT, the traceback of every thread.  A page that is missing or nonsense ends
    # a process by other signals, and there the traceback would only hide the cause.
    faulthandler.enable(sys.__stderr__ or 2)
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)
    end_with_parent(descriptor, stop)


def heartbeat(
    notifier: Notifier,
    reactor: IReactorTime,
    settled: Callable[[], Deferred[None]],
    state: Callable[[], Sequence[str]],
) -> None:
    """
    Send signs of life again and again, if the process that started this one waits for them.

    @param settled: returns a C{Deferred} that fires when the commit under way has ended,
        a round trip.  So neither a blocked reactor nor a stuck store counts as alive.
    @param state: returns the lines to send with each sign of life.
    """
    if notifier.watchdog is None:
        return

    def beat() -> Deferred[None]:
        return settled().addCallback(lambda _: notifier.notify(ALIVE, *state()))

    Periodic(beat, reactor).start(notifier.watchdog / BEATS, now=True)
