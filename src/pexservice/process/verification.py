"""
Reports to systemd and the operator, during a start: how much of the store was verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.logger import Logger

from pexservice.process.sd_notify import ALIVE

#: For how long each sign of progress keeps a start alive.  Seconds: a pause of a disk is
#: shorter, and a verification that hangs for longer is ended.
EXTENSION = 30

#: How often progress is logged.  Seconds; a shorter verification is not worth a line.
LOG_INTERVAL = 5.0


class VerificationProgress:
    """
    A reporter of progress, to the log and to the process that started this one.

    That process gets the reports in systemd's words, and takes each for a sign of life.

    A report blocks as little as a datagram does, and a verification that hangs reports
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
        self._next = monotonic() + LOG_INTERVAL

    def __call__(self, percent: int) -> None:
        """
        Report that C{percent} percent of the store was verified.
        """
        status = f"verifying the store: {percent} %"
        self._notify(
            f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={EXTENSION * 1_000_000}", ALIVE
        )
        now = self._monotonic()
        if now >= self._next:
            self._next = now + LOG_INTERVAL
            self._log.info("{status}", status=status)
