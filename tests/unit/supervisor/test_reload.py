"""
Reloads, which replace all workers.
"""

from __future__ import annotations

import signal

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from pexservice.process.exit_status import Misconfigured, Status
from pexservice.process.sd_notify import NOT_READY, READY, STANDBY
from pexservice.process.supervisor_report import Reload
from pexservice.supervisor.worker_pool import RELOAD_TIMEOUT_SECONDS
from pexservice.supervisor.worker_setup import WorkerSetup
from tests.support.processes import SpawnedProcess
from tests.support.supervision import WATCHDOG, Supervised


@pytest.fixture
def supervised() -> Supervised:
    """
    Provide a supervisor whose workers are up.
    """
    supervised = Supervised()
    supervised.started()
    del supervised.messages[:]
    return supervised


def replace_all(supervised: Supervised) -> list[SpawnedProcess]:
    """
    Have the reload in progress succeed.

    @return: the new processes.
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
    _, second = supervised.processes
    assert supervised.report.reload is Reload.UNDER_WAY
    second.notify(STANDBY)
    return [first, second]


def test_reload_replaces_the_active_worker_last(supervised: Supervised) -> None:
    """
    A reload starts a worker, ends the standby and the active worker, and starts a standby.
    """
    supervised.pool.reload()
    new = replace_all(supervised)
    assert supervised.processes == new
    assert not supervised.pool.reloading
    report = supervised.report
    assert (report.reloads, report.reload) == (1, Reload.SUCCEEDED)
    assert (report.ended_by_reason["replaced"], report.failovers) == (2, 0)


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


def test_systemd_is_notified_of_a_reload_and_its_end(supervised: Supervised) -> None:
    """
    READY is sent at the end of a reload, and not before.
    """
    supervised.pool.reload()
    replace_all(supervised)
    (began, *others) = supervised.messages
    assert began[0] == "RELOADING=1"
    assert began[1].partition("=")[0] == "MONOTONIC_USEC"
    assert others == [["STATUS=serving anew"], [READY, "STATUS=serving anew"]]


def test_service_without_a_standby_has_one_during_a_reload() -> None:
    supervised = Supervised(standby=0)
    (active,) = supervised.started()
    supervised.pool.reload()
    _, new = supervised.processes
    new.notify(STANDBY)
    active.end(by=signal.SIGTERM)
    assert supervised.processes == [new]
    assert supervised.report.reload is Reload.SUCCEEDED


def test_reload_ends_if_the_new_worker_does_not_come_up(supervised: Supervised) -> None:
    """
    The old workers stay.
    """
    active, standby = supervised.processes
    supervised.pool.reload()
    new = supervised.processes[-1]
    with capturedLogs() as events:
        supervised.pass_time(RELOAD_TIMEOUT_SECONDS)
    assert [event["log_format"] for event in events if event["log_level"].name == "error"]
    assert new.signals == [signal.SIGTERM]
    new.end(by=signal.SIGTERM)
    supervised.pass_time(10.0)
    assert supervised.processes == [active, standby]
    assert (active.signals, standby.signals) == ([], [])
    report = supervised.report
    assert (report.reloads, report.reload) == (1, Reload.FAILED)
    assert [
        READY,
        "STATUS=reload failed: worker-3 does not come up; the old workers keep running",
    ] in (supervised.messages)


def test_misconfigured_new_worker_is_not_tried_again(supervised: Supervised) -> None:
    """
    The reload fails with the reason of the new worker.
    """
    active, standby = supervised.processes
    supervised.pool.reload()
    new = supervised.processes[-1]
    new.notify("STATUS=the token file is missing")
    with capturedLogs() as events:
        new.end(status=Status.MISCONFIGURED)
    assert not supervised.pool.reloading
    # The failure is logged once, with its reason.
    assert [
        (event["log_level"], formatEvent(event))
        for event in events
        if event["log_level"] >= LogLevel.warn
    ] == [
        (
            LogLevel.error,
            "reload failed: the token file is missing; the old workers keep running",
        )
    ]
    assert "worker-3 ended with status 64" in map(formatEvent, events)
    supervised.pass_time(10.0)
    assert supervised.processes == [active, standby]
    assert supervised.service_ends == []
    assert supervised.messages[1] == [
        READY,
        "STATUS=reload failed: the token file is missing; the old workers keep running",
    ]


def test_new_worker_that_is_not_ready_fails_the_reload(supervised: Supervised) -> None:
    """
    The old workers stay, and the report has the reason.
    """
    active, standby = supervised.processes
    supervised.pool.reload()
    supervised.processes[-1].notify("STATUS=another store is there", NOT_READY)
    assert supervised.report.note == (
        "another store is there; the old workers keep running"
    )
    assert (active.signals, standby.signals) == ([], [])


def test_options_that_wait_for_a_restart_are_part_of_the_status(
    supervised: Supervised,
) -> None:
    supervised.reread_options = lambda: evolve(
        supervised.pool.setup, restart_pending=("--listen", "--store")
    )
    supervised.pool.reload()
    replace_all(supervised)
    assert supervised.report.restart_pending == ("--listen", "--store")
    assert supervised.messages[-1][-1].endswith(
        "; changing --listen and --store requires a restart"
    )


def test_new_worker_that_dies_is_tried_again(supervised: Supervised) -> None:
    """
    The next process of this worker may come up before the timeout of the reload.
    """
    supervised.pool.reload()
    supervised.processes[-1].end(by=signal.SIGKILL)
    supervised.reactor.turns(0.1)
    replace_all(supervised)
    assert supervised.report.reload is Reload.SUCCEEDED


def test_requests_during_a_reload_lead_to_one_more_reload(supervised: Supervised) -> None:
    for _ in range(3):
        supervised.pool.reload()
    replace_all(supervised)
    assert supervised.report.reloads == 2
    assert supervised.pool.reloading
    replace_all(supervised)
    assert not supervised.pool.reloading
    assert supervised.report.reloads == 2


@pytest.mark.parametrize("how", ["it is silent", "it is not ready"])
def test_standby_that_does_not_come_up_is_named_at_the_end_of_a_reload(
    supervised: Supervised, how: str
) -> None:
    active, standby = supervised.processes
    supervised.pool.reload()
    first = supervised.processes[-1]
    first.notify(STANDBY)
    standby.end(by=signal.SIGTERM)
    active.end(by=signal.SIGTERM)
    first.notify(READY)
    supervised.reactor.turns(0.1)
    with capturedLogs() as events:
        if how == "it is silent":
            supervised.pass_time(RELOAD_TIMEOUT_SECONDS)
        else:
            supervised.processes[-1].notify("STATUS=another store is there", NOT_READY)
    assert (
        LogLevel.warn,
        "the workers are replaced, but worker-4 does not come up",
    ) in [(event["log_level"], formatEvent(event)) for event in events]
    assert supervised.report.reload is Reload.SUCCEEDED


@pytest.mark.parametrize("stage", ["the new one begins", "the old ones end", "the last"])
def test_stop_during_a_reload_ends_all_processes(
    supervised: Supervised, stage: str
) -> None:
    """
    No other process is started.
    """
    active, standby = supervised.processes
    supervised.pool.reload()
    new = supervised.processes[-1]
    if stage != "the new one begins":
        new.notify(STANDBY)
    if stage == "the last":
        standby.end(by=signal.SIGTERM)
        active.end(by=signal.SIGTERM)
        new.notify(READY)
        supervised.reactor.turns(0.1)
        assert len(supervised.processes) == 2
    stopped = Deferred.fromCoroutine(supervised.pool.stop())
    for process in supervised.processes:
        assert process.signals == [signal.SIGTERM]
        process.end(by=signal.SIGTERM)
    assert stopped.called
    # A late SIGHUP changes nothing.
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


def test_wrong_options_start_no_worker(supervised: Supervised) -> None:
    """
    The old workers stay, and the report has the reason.
    """
    before = supervised.processes

    def reread_options() -> WorkerSetup:
        raise Misconfigured("there is no tokn-file")

    supervised.reread_options = reread_options
    supervised.pool.reload()
    assert supervised.processes == before
    assert (supervised.report.reload, supervised.report.note) == (
        Reload.FAILED,
        "there is no tokn-file; the old workers keep running",
    )
    assert supervised.messages[-1][-1] == (
        "STATUS=reload failed: there is no tokn-file; the old workers keep running"
    )


def test_bug_after_an_old_worker_ended_does_not_claim_that_the_old_workers_run(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    active, standby = supervised.processes
    supervised.pool.reload()
    supervised.processes[-1].notify(STANDBY)
    monkeypatch.setattr(supervised.pool, "_add_missing_workers", broken)
    standby.end(by=signal.SIGTERM)
    with capturedLogs() as events:
        active.end(by=signal.SIGTERM)
    assert "a bug ended the reload" in map(formatEvent, events)
    assert supervised.messages[-1][-1] == "STATUS=reload failed: RuntimeError: a bug"


def test_new_options_are_undone_if_no_worker_comes_up(supervised: Supervised) -> None:
    """
    After a later reload that succeeds, the note has the options that wait for a restart.
    """
    before = supervised.pool.setup
    now = evolve(before, command=["another"], restart_pending=("--store",))
    supervised.reread_options = lambda: now
    supervised.pool.reload()
    assert supervised.processes[-1].arguments == ["another"]
    supervised.processes[-1].end(status=Status.MISCONFIGURED)
    assert supervised.pool.setup is before
    assert supervised.report.reload is Reload.FAILED
    supervised.pool.reload()
    replace_all(supervised)
    assert supervised.pool.setup is now
    assert (supervised.report.reload, supervised.report.note) == (
        Reload.SUCCEEDED,
        "changing --store requires a restart",
    )


def test_bug_during_a_reload_keeps_the_old_options(supervised: Supervised) -> None:
    """
    The bug is logged with its traceback, and the watchdog of the old options continues.
    """
    before = supervised.pool.setup
    active, _ = supervised.processes
    # No timer takes a negative interval.
    supervised.reread_options = lambda: evolve(before, command=["another"], watchdog=-1.0)
    with capturedLogs() as events:
        supervised.pool.reload()
    assert supervised.pool.setup is before
    assert (supervised.report.reload, "ValueError: " in supervised.report.note) == (
        Reload.FAILED,
        True,
    )
    assert [event["log_level"] for event in events if "log_failure" in event] == [
        LogLevel.critical
    ]
    supervised.pass_time(2 * WATCHDOG, silent=(active,))
    assert signal.SIGABRT in active.signals
