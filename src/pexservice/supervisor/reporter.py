"""
The supervisor's reporter: it notifies systemd, and publishes a report for the workers.

The workers read the report and show it to clients, for example in C{/metrics}.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.logger import Logger

from pexservice.process import supervisor_report
from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, Status
from pexservice.process.sd_notify import READY, RELOADING, Notifier
from pexservice.process.supervisor_report import Process, Reload, SupervisorReport
from pexservice.supervisor.supervised_worker import SupervisedWorker, WorkerState
from pexservice.supervisor.worker_setup import WorkerSetup

#: In these states, a worker cannot have the store's lock.  C{NOT_READY}: the worker failed
#: to open the store, or another program has the lock.
_WITHOUT_LOCK = (WorkerState.STANDBY, WorkerState.NOT_READY)

#: A bad disk can cause these exit statuses; see L{pexservice.stores.verification}.
_SUSPICIOUS_STATUSES = {-number for number in SIGNALS_OF_DAMAGE} | {Status.STORE_FAILED}

#: A mapping from an exit status to the reason why a process ended by itself.
_REASON_BY_STATUS: dict[int, str] = {
    Status.STORE_FAILED: supervisor_report.STORE_FAILED,
    Status.CANNOT_START: supervisor_report.CANNOT_START,
    Status.MISCONFIGURED: supervisor_report.MISCONFIGURED,
}


@define(eq=False)
class Reporter:
    _log = Logger()

    _notifier: Notifier
    # The workers see a change of the report after L{_publish}.
    _report: SupervisorReport
    # Writes the report into the memory that the workers read.
    _write_report: Callable[[SupervisorReport], object]
    _has_started: bool = field(init=False, default=False)
    # What C{systemctl status} shows: the last status text, and a remark on the last reload.
    _status: str = field(init=False, default="")
    _remark: str = field(init=False, default="")
    # When the last active worker ended.  C{None} while a worker is active, and before the
    # first one is active.
    _active_ended_at: float | None = field(init=False, default=None)

    def _publish(self) -> None:
        self._write_report(self._report)

    def forward(self, line: str) -> None:
        """
        Send a worker's C{line} to systemd.
        """
        self._notifier.notify(line)

    def show_status(self, text: str) -> None:
        """
        Show C{text} in C{systemctl status}, with the remark on the last reload.
        """
        self._status = text
        self._notifier.notify(self._status_line)

    @property
    def _status_line(self) -> str:
        return f"STATUS={'; '.join(filter(None, (self._status, self._remark)))}"

    def notify_started(self) -> None:
        """
        Notify systemd that clients get responses.

        During a reload, L{reload_ended} does this: for systemd, READY ends the reload.
        """
        self._has_started = True
        if self._report.reload is not Reload.UNDER_WAY:
            self._notifier.notify(READY)

    def show_workers(self, workers: Sequence[SupervisedWorker]) -> None:
        states = [worker.state for worker in workers]
        self._report.standby_count = states.count(WorkerState.STANDBY)
        self._report.possible_lock_holders = sum(
            state not in _WITHOUT_LOCK for state in states
        )
        self._report.processes = (
            Process("supervisor", os.getpid(), "running"),
            *(Process(worker.name, worker.pid, worker.state.value) for worker in workers),
        )
        self._publish()

    def on_active(self, name: str, at: float) -> None:
        """
        Show that the worker C{name} has become active.

        @param at: the time by the reactor's clock.
        """
        report = self._report
        # If the supervisor has not yet noticed the end of the worker that was active
        # before, the pause is unknown.
        pause = 0.0 if self._active_ended_at is None else at - self._active_ended_at
        if self._active_ended_at is not None or report.active_worker not in ("", name):
            duration = f" after {1000 * pause:.0f} ms" if pause else ""
            self._log.info("{name} took over{duration}", name=name, duration=duration)
        self._active_ended_at = None
        report.active_worker, report.problem = name, ""
        report.retry_opening = True
        report.active_since_ms = time.time_ns() // 1_000_000
        report.takeover_us = round(pause * 1e6)
        self._publish()
        self.notify_started()

    def show_problem(self, reason: str) -> None:
        """
        Show the reason why no worker is active.
        """
        self._report.problem = reason
        self._publish()
        self.show_status(reason)

    def on_active_ending(self, name: str, at: float) -> None:
        """
        Show that the worker C{name}, which was active, has ended or is ending.
        """
        self._report.previous_worker = name
        if self._report.active_worker == name:
            self._report.active_worker = ""
            self._active_ended_at = at
        self._publish()

    def count_end(self, worker: SupervisedWorker) -> None:
        """
        Count a process of C{worker} that has ended while the service runs.
        """
        report = self._report
        if worker.exit_status in _SUSPICIOUS_STATUSES:
            report.suspicious_ends += 1
        reason = _end_reason(worker)
        if worker.was_active and reason != supervisor_report.REPLACED:
            report.failovers += 1
        report.ended_by_reason[reason] += 1
        self._publish()

    def reload_began(self) -> None:
        self._report.reloads += 1
        self._report.reload = Reload.UNDER_WAY
        self._publish()
        # systemd requires the time by its own clock, which is CLOCK_MONOTONIC.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(RELOADING, f"MONOTONIC_USEC={now}")

    def reload_ended(self, problem: str | None, setup: WorkerSetup) -> None:
        """
        Report the outcome of a reload.

        @param problem: why the workers were not replaced, or C{None} if they were.
        @param setup: how workers are started from now on.
        """
        report = self._report
        report.reload = Reload.SUCCEEDED if problem is None else Reload.FAILED
        report.note = setup.note if problem is None else problem
        report.restart_pending = setup.restart_pending
        report.wanted_standby_count = setup.standby_count
        report.has_tls = setup.settings.tls is not None
        failure = problem and f"reload failed: {problem}"
        self._remark = "; ".join(filter(None, (setup.note, failure)))
        self._publish()
        # For systemd, READY ends the reload, and says that the service has started.  If it
        # has not started yet, L{notify_started} sends READY later.
        ready = [READY] if self._has_started else []
        self._notifier.notify(*ready, self._status_line)


def _end_reason(worker: SupervisedWorker) -> str:
    if worker.state is WorkerState.SILENT:
        return supervisor_report.SILENT
    if worker.retired:
        return supervisor_report.REPLACED
    if worker.exit_status < 0:
        return supervisor_report.KILLED
    return _REASON_BY_STATUS.get(worker.exit_status, supervisor_report.FAILED)
