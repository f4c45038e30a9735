"""
Reloads, which replace all workers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import ALIVE, NOT_READY, READY, STANDBY
from pexservice.process.supervisor_report import Reload
from pexservice.supervisor.worker_pool import RELOAD_TIMEOUT_SECONDS, WorkerPool
from tests.support.processes import SpawnedProcess
from tests.support.supervision import Supervised


@pytest.fixture
def supervised() -> Supervised:
    """
    Provide a supervisor whose workers are up.
    """
    supervised = Supervised()
    supervised.started()
    del supervised.messages[:]
    return supervised


def reload(supervised: Supervised) -> SpawnedProcess:
    """
    Begin a reload, and return the process of its first new worker.
    """
    supervised.pool.reload()
    return supervised.processes[-1]


def replace_old(supervised: Supervised) -> None:
    """
    Have a reload in progress replace the two old workers by its first new worker.
    """
    active, standby, first = supervised.processes
    first.notify(STANDBY)
    assert (active.signals, standby.signals) == ([], [signal.SIGTERM])
    standby.end(by=signal.SIGTERM)
    assert active.signals == [signal.SIGTERM]
    assert supervised.processes == [active, first]
    active.end(by=signal.SIGTERM)
    first.notify(READY, "STATUS=serving anew")
    supervised.reactor.turns(0.1)


def replace_all(supervised: Supervised) -> None:
    """
    Have a reload in progress succeed.
    """
    replace_old(supervised)
    _, second = supervised.processes
    assert supervised.report.reload is Reload.UNDER_WAY
    second.notify(STANDBY)


def problems(events: Sequence[LogEvent]) -> list[str]:
    """
    Return the lines of the log that are warnings or worse.
    """
    return [
        formatEvent(event)
        for event in events
        if event["log_level"] not in (LogLevel.info, LogLevel.debug)
    ]


def test_reload_replaces_the_active_worker_last(supervised: Supervised) -> None:
    """
    A reload starts a worker, ends the standby and the active worker, and starts a standby.

    systemd gets READY at the end of a reload, and not before.
    """
    old = supervised.processes
    with capturedLogs() as events:
        supervised.pool.reload()
        replace_all(supervised)
    assert problems(events) == []
    assert not {*supervised.processes} & {*old}
    assert not supervised.pool.is_reloading
    report = supervised.report
    assert (report.reloads, report.reload) == (1, Reload.SUCCEEDED)
    assert (report.ended_by_reason["replaced"], report.failovers) == (2, 0)
    ((reloading, monotonic), *others) = supervised.messages
    assert (reloading, monotonic.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert others == [["STATUS=serving anew"], [READY, "STATUS=serving anew"]]


def test_worker_that_becomes_active_during_a_reload_is_replaced_last(
    supervised: Supervised,
) -> None:
    supervised.pool.reload()
    active, standby, first = supervised.processes
    active.end(by=signal.SIGKILL)
    standby.notify(READY, "STATUS=serving")
    supervised.reactor.turns(1)
    again = supervised.processes[-1]
    first.notify(STANDBY)
    assert (again.signals, standby.signals) == ([signal.SIGTERM], [])
    again.end(by=signal.SIGTERM)
    assert standby.signals == [signal.SIGTERM]


def test_service_without_a_standby_has_one_during_a_reload() -> None:
    supervised = Supervised(standby=0)
    (active,) = supervised.started()
    supervised.pool.reload()
    _, new = supervised.processes
    new.notify(STANDBY)
    active.end(by=signal.SIGTERM)
    assert supervised.processes == [new]
    assert supervised.report.reload is Reload.SUCCEEDED


def be_misconfigured(_: Supervised, new: SpawnedProcess) -> None:
    new.notify("STATUS=the token file is missing")
    new.end(status=Status.MISCONFIGURED)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (
            lambda supervised, _: supervised.pass_time(RELOAD_TIMEOUT_SECONDS),
            "worker-3 does not come up",
        ),
        (be_misconfigured, "the token file is missing"),
        (
            lambda _, new: new.notify("STATUS=another store is there", NOT_READY),
            "another store is there",
        ),
    ],
    ids=["too slow", "misconfigured", "not ready"],
)
def test_reload_fails_with_the_reason_of_the_first_new_worker(
    supervised: Supervised,
    fail: Callable[[Supervised, SpawnedProcess], object],
    reason: str,
) -> None:
    """
    The old workers stay.  The failure is logged once, and no other worker is started.
    """
    active, standby = supervised.processes
    new = reload(supervised)
    with capturedLogs() as events:
        fail(supervised, new)
    problem = f"{reason}; the old workers keep running"
    assert problems(events) == [f"reload failed: {problem}"]
    assert not supervised.pool.is_reloading
    report = supervised.report
    assert (report.reloads, report.reload, report.note) == (1, Reload.FAILED, problem)
    status = f"STATUS=serving; reload failed: {problem}"
    assert [READY, status] in supervised.messages
    if new.alive:
        assert new.signals == [signal.SIGTERM]
        new.end(by=signal.SIGTERM)
    active.notify("STATUS=serving on")
    # Later status lines keep the reason.
    assert supervised.messages[-1] == [f"STATUS=serving on; reload failed: {problem}"]
    supervised.pass_time(10.0)
    assert supervised.processes == [active, standby]
    assert (active.signals, standby.signals) == ([], [])
    assert supervised.service_ends == []


def test_reload_during_an_outage_does_not_claim_that_the_old_workers_run(
    supervised: Supervised,
) -> None:
    for process in supervised.processes:
        process.end(by=signal.SIGKILL)
    supervised.pool.reload()
    be_misconfigured(supervised, supervised.processes[-1])
    assert supervised.report.note == "the token file is missing; no worker is up"


def test_active_worker_that_hangs_during_a_reload_is_a_failover(
    supervised: Supervised,
) -> None:
    active, standby = supervised.processes
    new = reload(supervised)
    for _ in range(8):
        supervised.reactor.turns(1)
        standby.notify(ALIVE)
        new.notify(ALIVE)
    new.notify(STANDBY)
    active.end(by=signal.SIGKILL)
    assert supervised.report.failovers == supervised.report.ended_by_reason["silent"] == 1


def test_new_worker_that_dies_is_tried_again(supervised: Supervised) -> None:
    """
    The next process of this worker may come up before the timeout of the reload.
    """
    reload(supervised).end(by=signal.SIGKILL)
    supervised.reactor.turns(0.1)
    replace_all(supervised)
    assert supervised.report.reload is Reload.SUCCEEDED


def test_requests_during_a_reload_lead_to_one_more_reload(supervised: Supervised) -> None:
    for _ in range(3):
        supervised.pool.reload()
    replace_all(supervised)
    assert supervised.report.reloads == 2
    assert supervised.pool.is_reloading
    replace_all(supervised)
    assert not supervised.pool.is_reloading
    assert supervised.report.reloads == 2


@pytest.mark.parametrize("how", ["it is silent", "it is not ready"])
def test_standby_that_does_not_come_up_is_named_at_the_end_of_a_reload(
    supervised: Supervised, how: str
) -> None:
    supervised.pool.reload()
    replace_old(supervised)
    with capturedLogs() as events:
        if how == "it is silent":
            supervised.pass_time(RELOAD_TIMEOUT_SECONDS)
        else:
            supervised.processes[-1].notify("STATUS=another store is there", NOT_READY)
    assert problems(events) == ["the workers are replaced, but worker-4 does not come up"]
    assert supervised.report.reload is Reload.SUCCEEDED


@pytest.mark.parametrize("stage", ["the new one begins", "the old ones end", "the last"])
def test_stop_during_a_reload_ends_all_processes(
    supervised: Supervised, stage: str
) -> None:
    """
    No other process is started, and a late SIGHUP changes nothing.
    """
    new = reload(supervised)
    if stage == "the old ones end":
        new.notify(STANDBY)
    elif stage == "the last":
        replace_old(supervised)
        assert len(supervised.processes) == 2
    stopped = Deferred.fromCoroutine(supervised.pool.stop())
    for process in supervised.processes:
        assert process.signals == [signal.SIGTERM]
        process.end(by=signal.SIGTERM)
    assert stopped.called
    supervised.pool.reload()
    supervised.reactor.turns(2 * RELOAD_TIMEOUT_SECONDS)
    assert supervised.processes == []


def test_reload_during_the_start_does_not_announce_readiness() -> None:
    """
    A reload may begin before any worker is up.
    """
    supervised = Supervised()
    supervised.pool.start()
    supervised.pool.reload()
    supervised.reactor.turns(RELOAD_TIMEOUT_SECONDS + 1)
    assert supervised.report.reload is Reload.FAILED
    assert not any(READY in message for message in supervised.messages)


def test_bug_after_an_old_worker_ended_does_not_claim_that_the_old_workers_run(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: WorkerPool) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(WorkerPool, "_add_missing_workers", broken)
    supervised.pool.reload()
    with capturedLogs() as events:
        replace_old(supervised)
    (failure,) = [event for event in events if "log_failure" in event]
    assert formatEvent(failure) == "a bug ended the reload"
    status = "STATUS=serving; reload failed: RuntimeError: a bug"
    assert [READY, status] in supervised.messages


def test_end_of_an_old_worker_during_a_reload_is_logged_with_its_reason(
    supervised: Supervised,
) -> None:
    """
    Only the end of the first new worker is the reason of a failed reload.
    """
    reload(supervised)
    standby = supervised.processes[1]
    standby.notify("STATUS=the access log is a pipe that nobody reads")
    with capturedLogs() as events:
        standby.end(status=Status.MISCONFIGURED)
    assert problems(events) == [
        "worker-2 ended with status 64: the access log is a pipe that nobody reads"
    ]


def test_new_options_are_undone_if_no_worker_comes_up(supervised: Supervised) -> None:
    """
    After a later reload that succeeds, the note has the options that wait for a restart.
    """
    before = supervised.pool.setup
    now = evolve(before, command=["another"], restart_pending=("--listen", "--store"))
    supervised.reread_options = lambda: now
    new = reload(supervised)
    assert new.arguments == ["another"]
    supervised.processes[1].end(by=signal.SIGKILL)
    supervised.reactor.turns(0.1)
    # An old worker that is replaced during the reload has the old options.
    assert supervised.processes[-1].arguments == ["worker"]
    new.end(status=Status.MISCONFIGURED)
    assert supervised.pool.setup is before
    assert supervised.report.reload is Reload.FAILED
    supervised.pool.reload()
    replace_all(supervised)
    assert supervised.pool.setup is now
    report = supervised.report
    note = "changing --listen and --store requires a restart"
    assert (report.reload, report.note) == (Reload.SUCCEEDED, note)
    assert report.restart_pending == ("--listen", "--store")
    assert supervised.messages[-1] == [READY, f"STATUS=serving anew; {note}"]
    be_misconfigured(supervised, reload(supervised))
    assert supervised.messages[-1][-1].startswith(f"STATUS=serving anew; {note}; reload ")
