"""
A worker's messages to the process that started it, the supervisor or systemd.

A worker sends heartbeats, and reports its progress while it verifies the store.
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
HEARTBEATS_PER_WATCHDOG = 4

#: By how much each report of progress extends the timeout of a start.  No working disk
#: pauses for so long; the supervisor kills a worker whose verification hangs for longer.
EXTENSION_SECONDS = 30

#: How often progress is logged.  A shorter verification logs nothing.
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
    # The supervisor ends a worker that hangs by SIGABRT, which writes the traceback of
    # every thread.  The other signals come from a damaged page of the store, and a
    # traceback would only hide that.
    faulthandler.enable(sys.__stderr__ or 2)
    for number in SIGNALS_OF_DAMAGE - {signal.SIGABRT}:
        signal.signal(number, signal.SIG_DFL)
    return notifier


def heartbeat(
    notifier: Notifier,
    reactor: IReactorTime,
    when_work_ends: Callable[[], Deferred[None]],
    lines: Callable[[], Sequence[str]],
) -> None:
    """
    Send heartbeats from now on, if the supervisor or systemd waits for them.

    @param when_work_ends: returns a C{Deferred} that fires when the verification and the
        commit in progress have ended.  A heartbeat waits for it.  So a worker does not look
        alive if its reactor is blocked or its disk hangs.
    @param lines: returns the lines to send with each heartbeat.
    """
    if notifier.watchdog is None:
        return

    def beat() -> Deferred[None]:
        return when_work_ends().addCallback(lambda _: notifier.notify(ALIVE, *lines()))

    Periodic(beat, reactor).start(notifier.watchdog / HEARTBEATS_PER_WATCHDOG, now=True)


class VerificationProgress:
    """
    Reports how much of the store was verified, to the log and to the supervisor or systemd.

    To the latter, each report is a heartbeat, and extends the timeout of the start.  A
    verification that hangs reports nothing.
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
        Note that no verification is in progress any more.
        """
        waiting, self._waiting = self._waiting or (), None
        for deferred in waiting:
            deferred.callback(None)

    def __call__(self, percent: int) -> None:
        if self._waiting is None:
            self._waiting = []
        status = f"verifying the store: {percent} %"
        extension = f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}"
        # The extension comes last, because a heartbeat sets the timeout to the watchdog's.
        self._notify(f"STATUS={status}", ALIVE, extension)
        now = self._monotonic()
        if now >= self._next_line_at:
            self._next_line_at = now + LOG_INTERVAL_SECONDS
            self._log.info("{status}", status=status)
