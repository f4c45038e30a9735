"""
The decisions about all workers together.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from pexservice.process.exit_status import SIGNALS_OF_DAMAGE, Status
from pexservice.process.sd_notify import ALIVE, NOT_READY, READY, STANDBY, STOPPING
from pexservice.supervisor.worker_pool import MAX_HEAD_START_SECONDS
from tests.support.supervision import Supervised


@pytest.fixture
def supervised() -> Supervised:
    """
    Provide a supervisor that has not begun.
    """
    return Supervised()


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


def test_systemd_gets_readiness_heartbeats_and_status_texts(
    supervised: Supervised,
) -> None:
    """
    It gets the heartbeats of all workers, and the status texts of the active worker.

    Without an active worker, it gets the status texts of the standby.
    """
    active, standby = supervised.started()
    assert supervised.messages == [[READY], ["STATUS=serving"]]
    for process, lines, messages in (
        (active, [ALIVE, READY, "STATUS=serving"], [[ALIVE]]),
        (active, ["STATUS=looking around"], [["STATUS=looking around"]]),
        (active, ["EXTEND_TIMEOUT_USEC=1000"], [["EXTEND_TIMEOUT_USEC=1000"]]),
        (standby, [ALIVE, STANDBY, "STATUS=not now"], [[ALIVE]]),
        (active, [STOPPING, "MAINPID=7"], []),
        (standby, ["STATUS=verifying", STANDBY], [["STATUS=verifying"]]),
    ):
        del supervised.messages[:]
        process.notify(*lines)
        assert supervised.messages == messages


@pytest.mark.parametrize(
    ("how", "reason", "suspicious", "line"),
    [
        ({"by": signal.SIGKILL}, "killed", 0, "warn: worker-2 ended by SIGKILL"),
        ({"by": 40}, "killed", 0, "warn: worker-2 ended by signal 40"),
        ({"status": 0}, "failed", 0, "info: worker-2 ended with status 0"),
        ({"status": 1}, "cannot_start", 0, "error: worker-2 ended with status 1"),
        ({"status": 64}, "misconfigured", 0, "error: worker-2 ended with status 64"),
        ({"status": 74}, "store_failed", 1, "error: worker-2 ended with status 74"),
        ({"status": 78}, "failed", 0, "error: worker-2 ended with status 78"),
        *(
            ({"by": number}, "killed", 1, f"warn: worker-2 ended by {number.name}")
            for number in SIGNALS_OF_DAMAGE
        ),
    ],
)
def test_end_of_a_worker_is_counted_and_logged_by_its_cause(
    supervised: Supervised, how: dict[str, Any], reason: str, suspicious: int, line: str
) -> None:
    """
    An end that a bad disk can cause is suspicious.  The end of a standby is no failover.
    """
    _, standby = supervised.started()
    with capturedLogs() as events:
        standby.end(**how)
    report = supervised.report
    assert {name: n for name, n in report.ended_by_reason.items() if n} == {reason: 1}
    assert (report.suspicious_ends, report.failovers) == (suspicious, 0)
    assert line in [f"{event['log_level'].name}: {formatEvent(event)}" for event in events]


def test_signals_of_damage_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-it-works.md").read_text()
    (row,) = [line for line in page.splitlines() if "SIGBUS" in line]
    names = {number.name for number in SIGNALS_OF_DAMAGE}
    assert set(re.findall(r"SIG[A-Z]+", row)) == names


def test_end_of_an_active_worker_is_a_failover_also_if_it_stops_itself(
    supervised: Supervised,
) -> None:
    active, _ = supervised.started()
    active.notify(STOPPING)
    active.end(status=Status.STORE_FAILED)
    assert supervised.report.failovers == 1


def succession(supervised: Supervised) -> tuple[str, str, int]:
    """
    Return the previous worker, the active worker, and the pause between them in ms.
    """
    report = supervised.report
    return report.previous_worker, report.active_worker, report.takeover_us // 1000


def test_report_and_log_show_the_takeover_and_its_pause(supervised: Supervised) -> None:
    """
    The pause lasts from the end of one worker until the next one is active.
    """
    active, standby = supervised.started()
    assert succession(supervised) == ("", "worker-1", 0)
    active.end(by=signal.SIGKILL)
    assert succession(supervised) == ("worker-1", "", 0)
    supervised.reactor.turn(0.25)
    with capturedLogs() as events:
        standby.notify(READY)
    assert succession(supervised) == ("worker-1", "worker-2", 250)
    assert "worker-2 took over after 250 ms" in map(formatEvent, events)


def test_takeover_before_the_end_was_noticed_has_no_pause(supervised: Supervised) -> None:
    """
    The end of the previous worker, which is noticed later, changes nothing.
    """
    active, standby = supervised.started()
    with capturedLogs() as events:
        standby.notify(READY)
    supervised.reactor.turn(0.25)
    active.end(by=signal.SIGKILL)
    assert succession(supervised) == ("worker-1", "worker-2", 0)
    assert "worker-2 took over" in map(formatEvent, events)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["STATUS=the store is damaged", STOPPING], "the store is damaged"),
        ([], "worker-1 ended with status 78"),
    ],
)
def test_damaged_store_ends_the_service_with_the_reason(
    supervised: Supervised, lines: list[str], reason: str
) -> None:
    """
    The first worker that finds the damage is the only one that starts.
    """
    supervised.pool.start()
    (first,) = supervised.processes
    first.notify(*lines)
    supervised.reactor.turns(0.1)
    first.end(status=Status.DAMAGED)
    assert supervised.reactor.spawned == [first]
    assert supervised.service_ends == [(Status.DAMAGED, reason)]


def test_reason_of_a_killed_worker_is_the_signal_and_not_its_last_status(
    supervised: Supervised,
) -> None:
    supervised.pool.start()
    (verifying,) = supervised.processes
    verifying.notify("STATUS=verifying the store: 35 %", "EXTEND_TIMEOUT_USEC=30000000")
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


def test_worker_that_is_not_ready_makes_the_service_respond() -> None:
    """
    The service has started: systemd gets READY, and the reason.
    """
    supervised = Supervised(standby=0)
    supervised.pool.start()
    supervised.processes[0].notify("STATUS=the disk is not mounted", NOT_READY)
    assert ["STATUS=the disk is not mounted"] in supervised.messages
    assert [READY] in supervised.messages
    assert supervised.report.problem == "the disk is not mounted"
    assert supervised.report.possible_lock_holders == 0


def test_stop_waits_for_the_end_of_all_and_logs_an_unexpected_one(
    supervised: Supervised,
) -> None:
    """
    No process follows, and nothing is counted.
    """
    active, standby = supervised.started()
    stopped = Deferred.fromCoroutine(supervised.pool.stop())
    assert (active.signals, standby.signals) == ([signal.SIGTERM], [signal.SIGTERM])
    with capturedLogs() as events:
        standby.end(by=signal.SIGTERM)
        assert not stopped.called
        active.end(by=signal.SIGKILL)
    assert stopped.called
    assert [f"{event['log_level'].name}: {formatEvent(event)}" for event in events] == [
        "info: worker-2 ended by SIGTERM",
        "warn: worker-1 ended by SIGKILL",
    ]
    supervised.reactor.turns(10.0)
    assert supervised.processes == []
    assert set(supervised.report.ended_by_reason.values()) == {0}
    assert supervised.report.failovers == 0
