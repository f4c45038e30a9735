"""
Lines in the log for transitions that the store refuses: few, however many are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.logger import Logger

#: How often a line is written, at most.  Seconds.
LOG_INTERVAL = 1.0


class RefusalLog:
    """
    A log of refused transitions, which counts them and writes of the first ones at once.

    A full disk refuses thousands a second, and may be the one that the log is on.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._count = 0
        self._log_at = -math.inf

    def refused(self, refusal: Exception, count: int) -> None:
        """
        Count C{count} refused transitions, and log all if the last line is long enough ago.

        The new line counts all transitions that were refused since the last one.
        """
        self._count += count
        now = self._seconds()
        if now >= self._log_at:
            self._log.error(
                "{refusal}: {lost} transitions were refused",
                refusal=refusal,
                lost=self._count,
            )
            self._count, self._log_at = 0, now + LOG_INTERVAL
