"""
The supervisor's reports on the service, to its starter and to its workers.

The starter is systemd or another program.  The workers answer C{/metrics}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from copy import copy

from twisted.logger import Logger

from pexservice.process.scoreboard import Process, Reload, Score
from pexservice.process.sd_notify import READY, RELOADING, Notifier


class Reports:
    """
    The score that the workers read, and the notifications to systemd.

    The notifications say that the service is ready, and what the service does.
    """

    _log = Logger()

    def __init__(
        self, notifier: Notifier, score: Score, publish: Callable[[Score], object]
    ) -> None:
        """
        @param publish: shows the score to the workers.
        """
        self._notifier = notifier
        self._score = score
        self._publish = publish
        self._ready = False
        self._status = ""
        self._gone_at: float | None = None
        publish(score)

    @property
    def reloading(self) -> bool:
        """
        Return whether the workers are being replaced.
        """
        return self._score.reload is Reload.UNDER_WAY

    def pass_on(self, line: str) -> None:
        """
        Pass a worker's C{line} on to systemd.

        A status also names the options that wait for a restart.
        """
        if line.startswith("STATUS="):
            self._status = line
            line += self._pending
        self._notifier.notify(line)

    @property
    def _pending(self) -> str:
        options = self._score.restart_pending
        return f"; changing {' and '.join(options)} requires a restart" if options else ""

    def ready(self) -> None:
        """
        Notify systemd that a worker serves.

        While the workers are replaced, notify systemd only at the end of the replacement.
        """
        self._ready = True
        if not self.reloading:
            self._notifier.notify(READY)

    def serving(self, name: str, at: float) -> None:
        """
        Show that the worker C{name} serves.

        @param at: the time, by the clock of L{gone}.
        """
        # There was no pause if the worker took over before its predecessor's end was
        # noticed.
        pause = 0.0 if self._gone_at is None else at - self._gone_at
        if self._gone_at is not None or self._score.serving not in ("", name):
            self._log.info(
                "{name} took over after {pause:.0f} ms", name=name, pause=1000 * pause
            )
        self._gone_at = None
        self._score.serving = name
        self._score.since = time.time_ns() // 1_000_000
        self._score.pause = round(pause * 1e6)
        self._score.problem = ""
        self._publish(self._score)

    def unready(self, reason: str) -> None:
        """
        Show C{reason}, for which no worker serves.
        """
        self._score.problem = reason
        self._publish(self._score)
        self._notifier.notify(f"STATUS={reason}")

    def gone(self, name: str, at: float) -> None:
        """
        Show that the worker C{name}, which has served, serves no more.
        """
        self._score.before = name
        if self._score.serving == name:
            self._score.serving = ""
            self._gone_at = at
        self._publish(self._score)

    def states(
        self, *, standing_by: int, possible_owners: int, processes: Sequence[Process]
    ) -> None:
        """
        Show the processes, how many stand by, and how many may have the store's lock.
        """
        score, before = self._score, copy(self._score)
        score.standing_by, score.possible_owners = standing_by, possible_owners
        score.processes = (Process("supervisor", os.getpid(), "running"), *processes)
        if score != before:
            self._publish(score)

    def standby_wanted(self, count: int) -> None:
        """
        Show how many workers should stand by.
        """
        self._score.standby = count
        self._publish(self._score)

    def restarted(self, reason: str, *, failover: bool) -> None:
        """
        Count a worker that ended while workers should run.

        @param reason: one of L{pexservice.process.scoreboard.REASONS}.
        @param failover: whether the worker served and had not been told to end.
        """
        self._score.restarts[reason] += 1
        self._score.failovers += failover
        self._publish(self._score)

    def reload_began(self) -> None:
        """
        Report that the workers are replaced from now on.
        """
        self._score.reloads += 1
        self._score.reload = Reload.UNDER_WAY
        self._publish(self._score)
        # systemd takes no other clock than its own.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(RELOADING, f"MONOTONIC_USEC={now}")

    def reload_ended(
        self, problem: str | None, note: str = "", restart_pending: tuple[str, ...] = ()
    ) -> None:
        """
        Report the outcome of a replacement of the workers.

        @param problem: why the workers were not replaced, or C{None} if they were.
        @param note: a note on a replacement that succeeded.
        @param restart_pending: the options whose change takes effect with a restart.
        """
        failed = problem is not None
        self._score.reload = Reload.FAILED if failed else Reload.SUCCEEDED
        self._score.note = note if problem is None else problem
        self._score.restart_pending = restart_pending
        self._publish(self._score)
        # Ends what RELOADING began, unless the service never was ready.
        lines = [READY] if self._ready else []
        if failed:
            lines.append(f"STATUS=reload failed: {problem}; the old workers keep running")
        elif self._status:
            lines.append(self._status + self._pending)
        self._notifier.notify(*lines)
