"""
What a worker does for the process that started it: it follows its supervisor and gives
signs of life.
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
from pexservice.worker import legacy

#: Signs of life within the time of silence that is too long.
BEATS = 4


def connect(
    settings: Settings, environment: Mapping[str, str], stop: Callable[[], object]
) -> Notifier:
    """
    Return what tells the process that started this one, and live no longer than that if
    it is a supervisor.

    @param stop: called in a thread to stop this process in order when its supervisor is
        gone; 0.8 seconds later it is killed, so that the next one need not wait.
    """
    if settings.supervisor is not None:
        notifier = Notifier.to_supervisor(settings.supervisor, environment)
        follow(settings.supervisor, stop)
    elif settings.lifeline is not None:
        notifier = legacy.connect(settings.lifeline, environment)
        follow(settings.lifeline, stop)
    else:
        notifier = Notifier.to_service_manager(environment)
    return notifier


def follow(descriptor: int, stop: Callable[[], object]) -> None:
    """
    End with the supervisor, and leave the signals of the terminal to it.

    @param descriptor: an end of a pipe whose other end only the supervisor has.
    """
    # Ctrl-C goes to a terminal's whole process group; the supervisor passes it on.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # At SIGABRT, the traceback of every thread.  A page that is missing or nonsense ends
    # a process by other signals, and there the traceback would only hide what is said.
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
    Say that this process is alive, again and again, if somebody wants to know.

    @param settled: a round trip: fires when the commit under way has ended.  So
        neither a blocked reactor nor a stuck store is alive.
    @param state: returns what to say with it.
    """
    if notifier.watchdog is None:
        return

    def beat() -> Deferred[None]:
        return settled().addCallback(lambda _: notifier.notify(ALIVE, *state()))

    Periodic(beat, reactor).start(notifier.watchdog / BEATS, now=True)
