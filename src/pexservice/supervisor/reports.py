"""
The supervisor's reports on the service, to its starter and to its workers.

The starter is systemd or another program, which gets notifications.  The workers read the
score and show it to clients, for example in C{/metrics}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.logger import Logger

from pexservice.process.scoreboard import Process, Reload, Score
from pexservice.process.sd_notify import READY, RELOADING, Notifier
from pexservice.supervisor.worker_process import WITH_PROCESS, WorkerProcess, WorkerState
from pexservice.supervisor.worker_setup import WorkerSetup

#: The states of a worker that may have the store's lock.  A worker that is not ready has
#: failed to open the store, or waits for a lock that another program has.
_MAY_HOLD_LOCK = WITH_PROCESS - {WorkerState.STANDBY, WorkerState.NOT_READY}


@define(eq=False)
class Reports:
    """
    The reports to both.

    @ivar score: the numbers and states for the workers, which see a change after
        L{publish}.
    """

    _log = Logger()

    _notifier: Notifier
    score: Score
    # Shows the score to the workers.
    _publish: Callable[[Score], object]
    _ready: bool = field(init=False, default=False)
    _status: str = field(init=False, default="")
    _note: str = field(init=False, default="")
    _stopped_at: float | None = field(init=False, default=None)

    def publish(self) -> None:
        self._publish(self.score)

    @property
    def reloading(self) -> bool:
        return self.score.reload is Reload.UNDER_WAY

    def pass_on(self, line: str) -> None:
        """
        Pass a worker's C{line} on to systemd.

        Append to a worker's status the names of the options that wait for a restart.
        """
        if line.startswith("STATUS="):
            self._status = line
            line += self._note
        self._notifier.notify(line)

    def notify_ready(self) -> None:
        """
        Notify systemd that clients get responses.  A reload does so when it ends.
        """
        self._ready = True
        if not self.reloading:
            self._notifier.notify(READY)

    def show_workers(self, workers: Sequence[WorkerProcess]) -> None:
        states = [worker.state for worker in workers]
        self.score.standby_count = states.count(WorkerState.STANDBY)
        self.score.possible_lock_holders = sum(state in _MAY_HOLD_LOCK for state in states)
        self.score.processes = (
            Process("supervisor", os.getpid(), "running"),
            *(
                Process(worker.name, worker.pid, worker.state.label)
                for worker in workers
                if worker.pid is not None
            ),
        )
        self.publish()

    def on_active(self, name: str, at: float) -> None:
        """
        Show that the worker C{name} has become active.

        @param at: the time, by the clock of L{on_active_end}.
        """
        score = self.score
        # There was no pause if the worker took over before its predecessor's end was
        # noticed.
        pause = 0.0 if self._stopped_at is None else at - self._stopped_at
        if self._stopped_at is not None or score.active_worker not in ("", name):
            self._log.info(
                "{name} took over after {pause:.0f} ms", name=name, pause=1000 * pause
            )
        self._stopped_at = None
        score.active_worker, score.problem = name, ""
        score.active_since_ms = time.time_ns() // 1_000_000
        score.takeover_us = round(pause * 1e6)
        self.publish()
        self.notify_ready()

    def show_problem(self, reason: str) -> None:
        """
        Show the reason why no worker is active.
        """
        self.score.problem = reason
        self.publish()
        self._notifier.notify(f"STATUS={reason}")

    def on_active_end(self, name: str, at: float) -> None:
        """
        Show that the worker C{name}, which was active, has ended or ends.
        """
        self.score.previous_worker = name
        if self.score.active_worker == name:
            self.score.active_worker = ""
            self._stopped_at = at
        self.publish()

    def reload_began(self) -> None:
        self.score.reloads += 1
        self.score.reload = Reload.UNDER_WAY
        self.publish()
        # systemd compares this with its own clock, which is this one.
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
        # READY ends what RELOADING began.  A service that was never ready sends none.
        lines = [READY] if self._ready else []
        if problem is not None:
            lines.append(f"STATUS=reload failed: {problem}; the old workers keep running")
        elif self._status:
            lines.append(self._status + self._note)
        self._notifier.notify(*lines)
