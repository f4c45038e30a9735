"""
The messages from a worker to the supervisor or systemd; how a worker handles signals.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from collections.abc import Callable

from twisted.logger import Logger

from pexservice.process.exit_status import SIGNALS_OF_DAMAGE
from pexservice.process.sd_notify import ALIVE, EXTEND_TIMEOUT, Notifier
from pexservice.settings.options import WorkerSettings

#: How many heartbeats a worker sends in C{--watchdog} seconds.
HEARTBEATS_PER_WATCHDOG = 4

#: Each message on the progress of a verification gives the worker this much time until its
#: next message.  A working disk never takes so long.  If a verification hangs for longer,
#: the supervisor kills the worker.
EXTENSION_SECONDS = 30

#: The time between two log lines about the progress.  A faster verification logs none.
LOG_INTERVAL_SECONDS = 5.0


def connect_notifier(settings: WorkerSettings) -> Notifier:
    """
    Return the notifier that sends messages to the process that started this one.
    """
    if settings.supervisor is None:
        return Notifier.to_service_manager()
    return Notifier.to_supervisor(settings.supervisor)


def handle_signals_as_supervised() -> None:
    """
    Set how this process, which a supervisor started, handles signals.
    """
    # The supervisor alone handles SIGHUP.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # faulthandler writes the tracebacks of all threads at five signals.  One is SIGABRT,
    # which the supervisor sends to a worker that hangs.  The others can come from a damaged
    # page of the store.  A traceback would hide this cause, so these signals are reset.
    faulthandler.enable(sys.__stderr__ or 2)
    for number in SIGNALS_OF_DAMAGE - {signal.SIGABRT}:
        signal.signal(number, signal.SIG_DFL)


class VerificationProgress:
    """
    Shows how much of the store was verified, in messages and in the log.

    Each message on the progress is also a heartbeat.  During a verification, the worker
    sends no other heartbeat, so if the verification hangs, the heartbeats stop.

    @ivar in_progress: whether a verification runs.  L{show} sets it, and the worker resets
        it when the attempt to open the store has ended.
    """

    _log = Logger()

    def __init__(self, notify: Callable[..., object]) -> None:
        """
        @param notify: sends its arguments, one line each, to the supervisor or to systemd.
        """
        self._notify = notify
        self._next_line_at = time.monotonic() + LOG_INTERVAL_SECONDS
        self.in_progress = False

    def show(self, percent: int) -> None:
        self.in_progress = True
        status = f"verifying the store: {percent} %"
        extension = f"{EXTEND_TIMEOUT}={EXTENSION_SECONDS * 1_000_000}"
        # The supervisor reads the lines in order.  Each line sets its timeout: most to
        # --watchdog, the extension to more.  So the extension comes last.
        self._notify(f"STATUS={status}", ALIVE, extension)
        now = time.monotonic()
        if now >= self._next_line_at:
            self._next_line_at = now + LOG_INTERVAL_SECONDS
            self._log.info("{status}", status=status)
