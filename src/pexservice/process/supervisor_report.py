"""
The supervisor's report: its counts, and the state of its workers.

A worker responds to C{/metrics}, but only the supervisor knows how often workers ended and
why.  So the supervisor writes its report into the scoreboard, and the workers read it.
"""

from __future__ import annotations

import json
from enum import IntEnum

from attrs import asdict, define, field, frozen

from pexservice.process import report_1_0
from pexservice.process.scoreboard import REPORT

#: The reasons why workers end.
END_REASONS = (
    # The worker was retired, by a reload or because it was not up in time.
    REPLACED := "replaced",
    # The worker sent no heartbeat.
    SILENT := "silent",
    # A commit failed.
    STORE_FAILED := "store_failed",
    CANNOT_START := "cannot_start",
    # A signal ended the worker.
    KILLED := "killed",
    # The worker ended with any other status.
    FAILED := "failed",
    # An option or a file is wrong.
    MISCONFIGURED := "misconfigured",
)

#: A text in the report with more characters is cut.
MAX_TEXT_LENGTH = 512


class Reload(IntEnum):
    NONE = 0
    UNDER_WAY = 1
    SUCCEEDED = 2
    FAILED = 3


@frozen
class Process:
    """
    One process of the service.

    @ivar name: C{supervisor}, or a worker's name as the log has it.
    @ivar state: C{active}, C{standby}, C{starting}, C{not ready}, C{stopping} or C{silent};
        C{running} for the supervisor.
    """

    name: str
    pid: int
    state: str


@define
class SupervisorReport:
    """
    The supervisor's counts since it started, and the state of its workers.

    @ivar failovers: how often an active worker ended unexpectedly.
    @ivar retry_opening: whether a worker that cannot open the store retries, and sends
        clients the reason.  If not, the worker ends, so that the operator who starts the
        service gets the reason.
    @ivar suspicious_ends: how often a worker ended in a way that a bad disk can cause.
    @ivar standby_count: how many standbys there are.
    @ivar wanted_standby_count: how many standbys there should be.
    @ivar ended_by_reason: a mapping from a reason to the number of workers that ended for
        this reason before the service began to stop.
    @ivar reloads: how many reloads began.
    @ivar reload: the outcome of the last reload.
    @ivar active_worker: the name of the active worker; empty if no worker is active.
    @ivar previous_worker: the name of the active worker that ended last.
    @ivar active_since_ms: when C{active_worker} became active, in milliseconds since 1970.
    @ivar takeover_us: how long no worker was active before C{active_worker} became active,
        in microseconds; 0 if the supervisor did not see this time.
    @ivar note: why the last reload failed, or which options wait for a restart.
    @ivar possible_lock_holders: how many workers may have the store's lock.
    @ivar problem: why no worker is active, if the reason is known; otherwise empty.
    @ivar restart_pending: the options whose change requires a restart.
    @ivar processes: the processes of the service, the supervisor first.
    @ivar address: the address at which programs on this machine reach the service:
        C{HOST:PORT}, or the base URL of a Unix socket.
    @ivar has_tls: whether the service requires TLS.
    """

    failovers: int = 0
    standby_count: int = 0
    wanted_standby_count: int = 0
    ended_by_reason: dict[str, int] = field(factory=lambda: dict.fromkeys(END_REASONS, 0))
    reloads: int = 0
    reload: Reload = Reload.NONE
    active_worker: str = ""
    previous_worker: str = ""
    active_since_ms: int = 0
    takeover_us: int = 0
    note: str = ""
    possible_lock_holders: int = 0
    problem: str = ""
    restart_pending: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    retry_opening: bool = False
    suspicious_ends: int = 0
    address: str = ""
    has_tls: bool = False


def reload_notes(report: SupervisorReport) -> tuple[str, ...]:
    """
    Return a phrase with the outcome of the last reload, if there was a reload.
    """
    if not report.reloads:
        return ()
    outcome = report.reload.name.lower().replace("_", " ")
    note = f": {report.note}" if report.note else ""
    return (f"reload {report.reloads} {outcome}{note}",)


def write_report(descriptor: int, report: SupervisorReport) -> None:
    values = asdict(report)
    for name in ("note", "problem"):
        values[name] = values[name][:MAX_TEXT_LENGTH]
    REPORT.write(descriptor, json.dumps(values).encode())


def read_report(descriptor: int | None) -> SupervisorReport | None:
    """
    Read the report that was written last.

    @param descriptor: the scoreboard; C{None} if this process has no supervisor.
    @return: the report; C{None} if no report was written, or while one is being written.
    @raise OSError: C{descriptor} is not open, or no file.
    """
    if descriptor is None:
        return None
    content = REPORT.read(descriptor)
    values = report_1_0.read_values(descriptor) if content is None else json.loads(content)
    if values is None:
        return None
    report = SupervisorReport(**values)
    report.reload = Reload(report.reload)
    report.restart_pending = tuple(report.restart_pending)
    report.processes = tuple(Process(**process) for process in values.get("processes", ()))
    return report
