"""
The supervisor's reports on the service, to its starter and to its workers.

The starter is systemd or another program, which gets notifications.  The workers read the
score and show it to clients, for example in C{/metrics}.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.logger import Logger

from pexservice.process.scoreboard import Reload, Score
from pexservice.process.sd_notify import READY, RELOADING, Notifier
from pexservice.supervisor.worker_setup import WorkerSetup


class Reports:
    """
    The reports, of which each method makes one.

    @ivar score: the numbers and states for the workers; L{publish} shows them its changes.
    """

    _log = Logger()

    def __init__(
        self, notifier: Notifier, score: Score, publish: Callable[[Score], object]
    ) -> None:
        """
        @param publish: shows the score to the workers.
        """
        self._notifier = notifier
        self.score = score
        self._publish = publish
        self._ready = False
        self._status = self._note = ""
        self._stopped_at: float | None = None
        self.publish()

    def publish(self) -> None:
        self._publish(self.score)

    @property
    def reloading(self) -> bool:
        return self.score.reload is Reload.UNDER_WAY

    def pass_on(self, line: str) -> None:
        """
        Pass a worker's C{line} on to systemd.

        A worker's status is extended by the names of the options that wait for a restart.
        """
        if line.startswith("STATUS="):
            self._status = line
            line += self._note
        self._notifier.notify(line)

    def notify_ready(self) -> None:
        """
        Notify systemd that clients get responses; during a reload, only at its end.
        """
        self._ready = True
        if not self.reloading:
            self._notifier.notify(READY)

    def serving(self, name: str, at: float) -> None:
        """
        Show that the worker C{name} serves.

        @param at: the time, by the clock of L{stopped_serving}.
        """
        score = self.score
        # There was no pause if the worker took over before its predecessor's end was
        # noticed.
        pause = 0.0 if self._stopped_at is None else at - self._stopped_at
        if self._stopped_at is not None or score.serving not in ("", name):
            self._log.info(
                "{name} took over after {pause:.0f} ms", name=name, pause=1000 * pause
            )
        self._stopped_at = None
        score.serving, score.problem = name, ""
        score.since = time.time_ns() // 1_000_000
        score.pause = round(pause * 1e6)
        self.publish()
        self.notify_ready()

    def cannot_serve(self, reason: str) -> None:
        """
        Show the reason why no worker serves.
        """
        self.score.problem = reason
        self.publish()
        self._notifier.notify(f"STATUS={reason}")

    def stopped_serving(self, name: str, at: float) -> None:
        """
        Show that the worker C{name} has ended or ends, after it has served.
        """
        self.score.before = name
        if self.score.serving == name:
            self.score.serving = ""
            self._stopped_at = at
        self.publish()

    def reload_began(self) -> None:
        self.score.reloads += 1
        self.score.reload = Reload.UNDER_WAY
        self.publish()
        # systemd takes no other clock than its own.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(RELOADING, f"MONOTONIC_USEC={now}")

    def reload_ended(self, problem: str | None, setup: WorkerSetup) -> None:
        """
        Report the outcome of a reload.

        @param problem: why the workers were not replaced, or C{None} if they were.
        @param setup: how workers are started from now on.
        """
        score = self.score
        score.reload = Reload.SUCCEEDED if problem is None else Reload.FAILED
        score.note = setup.note if problem is None else problem
        score.restart_pending = setup.restart_pending
        self._note = f"; {setup.note}" if setup.note else ""
        self.publish()
        # Ends what RELOADING began, unless the service never was ready.
        lines = [READY] if self._ready else []
        if problem is not None:
            lines.append(f"STATUS=reload failed: {problem}; the old workers keep running")
        elif self._status:
            lines.append(self._status + self._note)
        self._notifier.notify(*lines)
