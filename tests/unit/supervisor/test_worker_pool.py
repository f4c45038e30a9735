"""
The decisions about all workers together.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, Status
from pexservice.process.sd_notify import ALIVE, NOT_READY, READY, STANDBY, STOPPING
from pexservice.process.supervisor_report import Process, Reload
from pexservice.supervisor.worker_pool import MAX_HEAD_START_SECONDS
from tests.support.supervision import Supervised


@pytest.fixture
def supervised() -> Supervised:
    """
    Provide a supervisor that has not begun.
    """
    return Supervised()


def test_standby_is_started_when_the_first_worker_is_active(supervised: Supervised) -> None:
    """
    Until then, the first worker has the processors for itself.
    """
    supervised.pool.start()
    supervised.reactor.turns(1.0)
    assert len(supervised.processes) == 1
    supervised.processes[0].notify(READY)
    supervised.reactor.turns(0.1)
    assert len(supervised.processes) == 2


@pytest.mark.parametrize("how", ["it ends", "it takes too long"])
def test_first_worker_that_does_not_come_up_delays_no_other(
    supervised: Supervised, how: str
) -> None:
    supervised.pool.start()
    first = supervised.processes[0]
    if how == "it ends":
        first.end(status=1)
        supervised.reactor.turns(0.2)
        assert first not in supervised.processes
    else:
        supervised.reactor.turns(MAX_HEAD_START_SECONDS - 0.1)
        assert supervised.processes == [first]
        supervised.reactor.turns(0.2)
        assert len(supervised.processes) == 2


def test_successor_is_started_after_the_takeover(supervised: Supervised) -> None:
    """
    The start of the next process does not slow down the takeover.
    """
    active, standby = supervised.started()
    supervised.pass_time(MAX_HEAD_START_SECONDS)
    active.end(by=signal.SIGKILL)
    supervised.reactor.turns(0.5)
    assert supervised.processes == [standby]
    standby.notify(READY)
    supervised.reactor.turns(0.1)
    assert len(supervised.processes) == 2
    assert supervised.report.failovers == 1


def test_systemd_gets_readiness_heartbeats_and_status_texts(
    supervised: Supervised,
) -> None:
    """
    It gets the status texts of the active worker and the heartbeats of all workers.
    """
    active, standby = supervised.started()
    assert supervised.messages == [[READY], ["STATUS=serving"]]
    del supervised.messages[:]
    for lines, messages in (
        ([ALIVE, READY, "STATUS=serving"], [[ALIVE]]),
        (["STATUS=looking around"], [["STATUS=looking around"]]),
        (["EXTEND_TIMEOUT_USEC=1000"], [["EXTEND_TIMEOUT_USEC=1000"]]),
        ([STOPPING, "MAINPID=7"], []),
    ):
        active.notify(*lines)
        assert supervised.messages == messages
        del supervised.messages[:]
    standby.notify(ALIVE, STANDBY)
    assert supervised.messages == [[ALIVE]]


def test_status_text_of_the_service_is_that_of_the_active_worker(
    supervised: Supervised,
) -> None:
    """
    Without an active worker, the service has the status text of the standby.
    """
    active, standby = supervised.started()
    del supervised.messages[:]
    standby.notify("STATUS=not now")
    assert supervised.messages == []
    active.notify(STOPPING)
    standby.notify("STATUS=verifying the store: 41 %", STANDBY)
    assert supervised.messages == [["STATUS=verifying the store: 41 %"]]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"by": signal.SIGKILL}, "killed"),
        ({"by": signal.SIGTERM}, "killed"),
        ({"status": Status.STORE_FAILED}, "store_failed"),
        ({"status": Status.CANNOT_START}, "cannot_start"),
        ({"status": Status.MISCONFIGURED}, "misconfigured"),
        ({"status": Status.DAMAGED}, "failed"),
        ({"status": 0}, "failed"),
    ],
)
def test_each_end_of_a_worker_counts_by_its_reason(
    supervised: Supervised, how: dict[str, Any], reason: str
) -> None:
    _, standby = supervised.started()
    standby.end(**how)
    restarts = supervised.report.ended_by_reason
    assert {reason: count for reason, count in restarts.items() if count} == {reason: 1}


@pytest.mark.parametrize(
    ("how", "level", "line"),
    [
        ({"by": signal.SIGKILL}, LogLevel.warn, "worker-2 ended by SIGKILL"),
        ({"by": signal.SIGTERM}, LogLevel.warn, "worker-2 ended by SIGTERM"),
        ({"by": 40}, LogLevel.warn, "worker-2 ended by signal 40"),
        ({"status": 0}, LogLevel.info, "worker-2 ended with status 0"),
        ({"status": 1}, LogLevel.error, "worker-2 ended with status 1"),
    ],
)
def test_end_of_a_worker_is_logged_by_its_severity(
    supervised: Supervised, how: dict[str, Any], level: LogLevel, line: str
) -> None:
    _, standby = supervised.started()
    with capturedLogs() as events:
        standby.end(**how)
    assert (level, line) in [(event["log_level"], formatEvent(event)) for event in events]


def test_end_of_a_retired_worker_is_no_warning(supervised: Supervised) -> None:
    active, *_ = supervised.started()
    supervised.pool.reload()
    supervised.processes[-1].notify(STANDBY)
    with capturedLogs() as events:
        supervised.processes[1].end(by=signal.SIGTERM)
        active.end(by=signal.SIGKILL)
    assert {event["log_level"] for event in events} == {LogLevel.info}


def test_only_the_end_of_an_active_worker_is_a_failover(supervised: Supervised) -> None:
    """
    A worker that sends STOPPING before it ends by itself was active, so its end counts.
    """
    active, standby = supervised.started()
    standby.end(by=signal.SIGKILL)
    assert supervised.report.failovers == 0
    active.notify(STOPPING)
    active.end(status=Status.STORE_FAILED)
    assert supervised.report.failovers == 1


def succession(supervised: Supervised) -> tuple[str, str, int]:
    """
    Return the previous worker, the active worker, and the pause between them in ms.
    """
    report = supervised.report
    return report.previous_worker, report.active_worker, report.takeover_us // 1000


def test_report_shows_the_takeover_and_its_pause(supervised: Supervised) -> None:
    """
    The pause lasts from the end of one worker until the next one is active.
    """
    active, standby = supervised.started()
    assert succession(supervised) == ("", "worker-1", 0)
    active.end(by=signal.SIGKILL)
    assert succession(supervised) == ("worker-1", "", 0)
    supervised.reactor.turn(0.25)
    standby.notify(READY)
    assert succession(supervised) == ("worker-1", "worker-2", 250)
    supervised.reactor.turns(0.5)
    supervised.processes[-1].notify(STANDBY)
    standby.notify(STOPPING)
    standby.end()
    supervised.reactor.turn(0.5)
    supervised.processes[0].notify(READY)
    assert succession(supervised)[:2] == ("worker-2", "worker-1")


def test_takeover_before_the_end_was_noticed_has_no_pause(supervised: Supervised) -> None:
    """
    The end of the previous worker, which is noticed later, changes nothing.
    """
    active, standby = supervised.started()
    standby.notify(READY)
    supervised.reactor.turn(0.25)
    active.end(by=signal.SIGKILL)
    assert succession(supervised) == ("worker-1", "worker-2", 0)


def test_processes_are_shown_with_their_states(supervised: Supervised) -> None:
    active, standby = supervised.started()
    supervisor, *workers = supervised.report.processes
    assert supervisor == Process("supervisor", os.getpid(), "running")
    assert workers == [
        Process("worker-1", active.pid, "active"),
        Process("worker-2", standby.pid, "standby"),
    ]
    active.end(by=signal.SIGKILL)
    assert supervised.report.processes == (supervisor, workers[1])
    standby.notify(READY)
    supervised.reactor.turns(MAX_HEAD_START_SECONDS)
    assert [process.state for process in supervised.report.processes] == [
        "running",
        "starting",
        "active",
    ]


def test_report_shows_how_many_standbys_there_are(supervised: Supervised) -> None:
    _, standby = supervised.started()
    assert (supervised.report.standby_count, supervised.report.wanted_standby_count) == (
        1,
        1,
    )
    standby.end(by=signal.SIGKILL)
    assert supervised.report.standby_count == 0
    assert supervised.report.reload is Reload.NONE


DAMAGE_SIGNALS = [
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
]


def test_signals_of_damage_are_those_of_the_documentation() -> None:
    """
    The next test shows that each of them counts as a suspicious end.
    """
    page = (Path(__file__).parents[3] / "docs" / "how-it-works.md").read_text()
    (row,) = [line for line in page.splitlines() if "SIGBUS" in line]
    assert set(re.findall(r"SIG[A-Z]+", row)) == {number.name for number in DAMAGE_SIGNALS}
    assert set(DAMAGE_SIGNALS) == SIGNALS_OF_DAMAGE


@pytest.mark.parametrize(
    "how",
    [{"status": Status.STORE_FAILED}, *({"by": number} for number in DAMAGE_SIGNALS)],
    ids=str,
)
def test_end_that_a_bad_disk_can_cause_is_counted_as_suspicious(
    supervised: Supervised, how: dict[str, Any]
) -> None:
    active, standby = supervised.started()
    active.end(**how)
    assert supervised.report.suspicious_ends == 1
    standby.notify(READY)
    standby.end(**how)
    assert supervised.report.suspicious_ends == 2


def test_killed_worker_is_not_counted_as_suspicious(supervised: Supervised) -> None:
    active, standby = supervised.started()
    active.end(by=signal.SIGKILL)
    standby.notify(READY)
    assert supervised.report.suspicious_ends == 0


def test_damaged_store_ends_the_service_with_the_reason(supervised: Supervised) -> None:
    _, standby = supervised.started()
    standby.notify("STATUS=the store is damaged")
    standby.end(status=Status.DAMAGED)
    assert supervised.service_ends == [(Status.DAMAGED, "the store is damaged")]


def test_exit_status_of_a_damaged_store_is_enough_to_end_the_service(
    supervised: Supervised,
) -> None:
    supervised.pool.start()
    supervised.processes[0].end(status=Status.DAMAGED)
    assert supervised.service_ends == [(Status.DAMAGED, "worker-1 ended with status 78")]


def test_reason_of_a_killed_worker_is_the_signal_and_not_its_last_status(
    supervised: Supervised,
) -> None:
    supervised.pool.start()
    (verifying,) = supervised.processes
    verifying.notify(
        "STATUS=verifying the store: 35 %", ALIVE, "EXTEND_TIMEOUT_USEC=30000000"
    )
    verifying.end(by=signal.SIGKILL)
    assert supervised.report.problem == "worker-1 ended by SIGKILL"
    assert supervised.messages[-1] == ["STATUS=worker-1 ended by SIGKILL"]


@pytest.mark.parametrize("status", [Status.MISCONFIGURED, Status.CANNOT_START])
def test_service_whose_first_worker_cannot_start_ends(
    supervised: Supervised, status: Status
) -> None:
    """
    The operator who starts the service gets the reason.

    The service waits for a worker that verifies the store, because it may become active.
    """
    supervised.pool.start()
    supervised.pass_time(MAX_HEAD_START_SECONDS + 1.0)
    first, second = supervised.processes
    first.notify("EXTEND_TIMEOUT_USEC=30000000")
    second.notify("STATUS=the token file is missing")
    second.end(status=status)
    assert supervised.service_ends == []
    first.notify("STATUS=the token file is missing")
    first.end(status=status)
    assert supervised.service_ends == [(status, "the token file is missing")]


@pytest.mark.parametrize("status", [Status.MISCONFIGURED, Status.CANNOT_START])
def test_service_that_was_active_does_not_end(
    supervised: Supervised, status: Status
) -> None:
    """
    Once a worker was active, the cause is probably temporary, such as a half-written file.

    The reason is shown until a worker is active.
    """
    for process in supervised.started():
        process.end(by=signal.SIGKILL)
    supervised.reactor.turns(0.1)
    for _ in range(5):
        (process,) = supervised.processes[:1]
        process.notify("STATUS=the TLS file is empty")
        process.end(status=status)
        assert supervised.report.problem == "the TLS file is empty"
        supervised.reactor.turns(2.0)
    assert supervised.service_ends == []
    assert ["STATUS=the TLS file is empty"] in supervised.messages
    supervised.processes[0].notify(READY)
    assert supervised.report.problem == ""


def test_worker_that_is_not_ready_makes_the_service_respond(supervised: Supervised) -> None:
    """
    The service has started: systemd gets READY, and the reason.
    """
    supervised.pool.start()
    supervised.processes[0].notify("STATUS=the disk is not mounted", NOT_READY)
    assert ["STATUS=the disk is not mounted"] in supervised.messages
    assert [READY] in supervised.messages
    assert supervised.report.problem == "the disk is not mounted"
    assert supervised.report.possible_lock_holders == 0


def test_stop_sends_sigterm_to_all_and_counts_no_restart(supervised: Supervised) -> None:
    """
    The stop is complete when all processes have ended.
    """
    processes = supervised.started()
    stopped = Deferred.fromCoroutine(supervised.pool.stop())
    for process in processes:
        assert process.signals == [signal.SIGTERM]
        assert not stopped.called
        process.end(by=signal.SIGTERM)
    assert stopped.called
    supervised.reactor.turns(10.0)
    assert supervised.processes == []
    assert set(supervised.report.ended_by_reason.values()) == {0}
    assert supervised.report.failovers == 0
