"""
A worker's duties to the process that started it, a supervisor or systemd.

A worker sends heartbeats, and reports its progress when it verifies the store.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pexservice.process.exit_status import SIGNALS_OF_DAMAGE
from pexservice.process.sd_notify import ALIVE, Notifier
from pexservice.process.timing import Periodic
from pexservice.settings.options import Settings

#: How many heartbeats a worker sends within the watchdog's time.
BEATS = 4

#: For how long each sign of progress keeps a start alive: longer than a disk pauses, and a
#: verification that hangs for longer is ended.
EXTENSION_SECONDS = 30

#: How often progress is logged; a shorter verification is not worth a line.
LOG_INTERVAL_SECONDS = 5.0


def connect(settings: Settings, environment: Mapping[str, str]) -> Notifier:
    """
    Return the notifier to the process that started this one.

    If that process is a supervisor, leave the terminal's signals to it.
    """
    if settings.supervisor is None:
        return Notifier.to_service_manager(environment)
    notifier = Notifier.to_supervisor(settings.supervisor, environment)
    # Ctrl-C goes to a terminal's whole process group; the supervisor passes it on, and it
    # alone handles SIGHUP.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # At SIGABRT, the traceback of every thread.  A page that is missing or nonsense ends
    # a process by other signals, and there the traceback would only hide the cause.
    faulthandler.enable(sys.__stderr__ or 2)
    for number in SIGNALS_OF_DAMAGE - {signal.SIGABRT}:
        signal.signal(number, signal.SIG_DFL)
    return notifier


def heartbeat(
    notifier: Notifier,
    reactor: IReactorTime,
    settled: Callable[[], Deferred[None]],
    state: Callable[[], Sequence[str]],
) -> None:
    """
    Send heartbeats from now on, if the process that started this one waits for them.

    @param settled: returns a C{Deferred} that fires when the commit in progress has ended,
        or a round trip.  So neither a blocked reactor nor a stuck store looks alive.
    @param state: returns the lines to send with each heartbeat.
    """
    if notifier.watchdog is None:
        return

    def beat() -> Deferred[None]:
        return settled().addCallback(lambda _: notifier.notify(ALIVE, *state()))

    Periodic(beat, reactor).start(notifier.watchdog / BEATS, now=True)


class VerificationProgress:
    """
    Reports how much of the store was verified, to the log and to the starter.

    To the starter, each report counts as a heartbeat.  A verification that hangs reports
    nothing.
    """

    _log = Logger()

    def __init__(
        self,
        notify: Callable[..., object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        @param notify: sends lines of systemd's protocol, one an argument.
        """
        self._notify = notify
        self._monotonic = monotonic
        self._next_line_at = monotonic() + LOG_INTERVAL_SECONDS
        self._waiting: list[Deferred[None]] | None = None

    def ended(self) -> Deferred[None]:
        """
        Return a C{Deferred} that fires when no verification is in progress.
        """
        if self._waiting is None:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def end(self) -> None:
        """
        Note that the store is verified, or that this failed.
        """
        waiting, self._waiting = self._waiting or (), None
        for deferred in waiting:
            deferred.callback(None)

    def __call__(self, percent: int) -> None:
        """
        Report that C{percent} of the store was verified.
        """
        if self._waiting is None:
            self._waiting = []
        status = f"verifying the store: {percent} %"
        extension = f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}"
        # In this order: a heartbeat shortens the deadline again.
        self._notify(f"STATUS={status}", ALIVE, extension)
        now = self._monotonic()
        if now >= self._next_line_at:
            self._next_line_at = now + LOG_INTERVAL_SECONDS
            self._log.info("{status}", status=status)
