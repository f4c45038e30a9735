"""
One worker: its processes, their output and messages, and when they are started and killed.
"""

from __future__ import annotations

import signal

import pytest
from twisted.logger import capturedLogs

from pexservice.process.sd_notify import ALIVE, READY, STANDBY, STOPPING
from pexservice.supervisor.supervised_worker import (
    MAX_OUTPUT_LINE_BYTES,
    MESSAGES_FD,
    START_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    TRACEBACK_SECONDS,
    SupervisedWorker,
    WorkerState,
)
from tests.support.processes import TURN, SpawnedProcess
from tests.support.supervision import WATCHDOG, Supervised

#: The supervisor notices within this time that a process was silent for too long.
CHECK_SECONDS = WATCHDOG / 4 + TURN


@pytest.fixture
def supervised() -> Supervised:
    """
    Provide a supervisor with one worker.
    """
    supervised = Supervised(standby=0)
    supervised.pool.start()
    return supervised


@pytest.fixture
def worker(supervised: Supervised) -> SupervisedWorker:
    (worker,) = supervised.pool.workers
    return worker


@pytest.fixture
def process(supervised: Supervised) -> SpawnedProcess:
    """
    Provide the first process of the worker.
    """
    (process,) = supervised.processes
    return process


def test_output_of_a_worker_is_logged_line_by_line(process: SpawnedProcess) -> None:
    """
    A line that becomes too long is divided, and a last line needs no newline.
    """
    whole = b"x" * MAX_OUTPUT_LINE_BYTES
    with capturedLogs() as events:
        process.write_output(b"out\nla")
        for data in (whole, b"x", b"y\n\nerror\n"):
            process.write_output(data, 2)
        process.write_output(b"st")
        process.end()
    lines = [event["line"] for event in events if "line" in event]
    assert lines == ["out", f"{whole.decode()}x", "y", "", "error", "last"]
    assert {event["process"] for event in events if "line" in event} == {"worker-1"}


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([ALIVE], WorkerState.STARTING),
        ([STANDBY], WorkerState.STANDBY),
        ([STANDBY, READY, "STATUS=serving"], WorkerState.ACTIVE),
        # A process that stops does not become active again.
        ([READY, STOPPING, READY], WorkerState.STOPPING),
        (["nonsense", "=", "", "\xff"], WorkerState.STARTING),
    ],
)
def test_state_of_a_worker_follows_from_its_messages(
    process: SpawnedProcess, worker: SupervisedWorker, lines: list[str], state: WorkerState
) -> None:
    """
    A message may arrive in parts.
    """
    for line in lines:
        data = f"{line}\n".encode()
        process.write_output(data[:5], MESSAGES_FD)
        process.write_output(data[5:], MESSAGES_FD)
    assert worker.state is state
    assert worker.is_up == (state in (WorkerState.STANDBY, WorkerState.ACTIVE))


def restart_delay(supervised: Supervised, start_seconds: float = 0.0) -> float:
    """
    End the newest process, and return the seconds until the next one begins.

    @param start_seconds: how long the process lives before its end.
    """
    supervised.pass_time(start_seconds)
    count = len(supervised.processes)
    supervised.processes[-1].end(status=1)
    ended = supervised.reactor.seconds()
    while len(supervised.processes) < count:
        supervised.reactor.turn(0.01)
    return supervised.reactor.seconds() - ended


@pytest.mark.parametrize("message", [READY, STANDBY])
def test_worker_that_does_not_come_up_restarts_with_backoff(
    supervised: Supervised, message: str
) -> None:
    """
    The delays double until a process is up, although each start takes seconds to fail.
    """
    delays = [restart_delay(supervised, start_seconds=3.0) for _ in range(9)]
    expected = [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5]
    assert delays == pytest.approx(expected, abs=0.02)
    supervised.processes[-1].notify(message)
    delays = [restart_delay(supervised) for _ in range(2)]
    assert delays == pytest.approx([0.02, 0.04], abs=0.015)


def test_active_worker_resets_the_backoff_of_all() -> None:
    """
    An active worker shows that the cause of the failures is gone.
    """
    supervised = Supervised(standby=1)
    active, _ = supervised.started()
    for _ in range(6):
        restart_delay(supervised)
    standby = supervised.processes[-1]
    standby.notify(STOPPING)
    active.end(by=signal.SIGKILL)
    supervised.reactor.turns(0.125)
    supervised.processes[-1].notify(READY)
    standby.end(status=1)
    supervised.reactor.turns(0.125)
    assert len(supervised.processes) == 2


@pytest.mark.parametrize(
    ("error", "failure_count"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), 0),
        # A bug is logged with its traceback.
        (TypeError("embedded null byte"), 5),
    ],
)
def test_process_that_cannot_be_spawned_is_tried_again(
    supervised: Supervised,
    process: SpawnedProcess,
    error: Exception,
    failure_count: int,
) -> None:
    """
    Each attempt is counted as an end with CANNOT_START.
    """
    supervised.reactor.spawn_error = error
    process.end(by=signal.SIGKILL)
    with capturedLogs() as events:
        supervised.reactor.turns(1.0)
    failures = [event["log_failure"] for event in events if "log_failure" in event]
    assert [failure.value for failure in failures] == [error] * failure_count
    assert supervised.processes == []
    assert supervised.report.ended_by_reason["cannot_start"] == 5
    supervised.reactor.spawn_error = None
    supervised.reactor.turns(5.0)
    assert len(supervised.processes) == 1


def test_silent_worker_gets_sigabrt_then_sigkill(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    """
    After SIGABRT, the process writes its tracebacks.  It gets SIGKILL a second later.
    """
    process.notify(READY)
    supervised.reactor.turns(WATCHDOG)
    assert process.signals == []
    supervised.reactor.turns(CHECK_SECONDS)
    assert process.signals == [signal.SIGABRT]
    # A message now changes nothing.
    process.notify(ALIVE, READY)
    assert worker.state is WorkerState.SILENT
    supervised.reactor.turns(TRACEBACK_SECONDS)
    assert process.signals == [signal.SIGABRT, signal.SIGKILL]
    process.end(by=signal.SIGKILL)
    assert supervised.report.ended_by_reason["silent"] == 1
    supervised.reactor.turns(0.1)
    assert len(supervised.processes) == 1


@pytest.mark.parametrize(
    ("messages", "seconds"),
    [
        ([], START_TIMEOUT_SECONDS),
        (["EXTEND_TIMEOUT_USEC=30000000", ALIVE, "EXTEND_TIMEOUT_USEC=30000000"], 30.0),
        # The watchdog's timeout is longer.
        (["EXTEND_TIMEOUT_USEC=1"], WATCHDOG),
    ],
)
def test_worker_has_more_time_for_its_start_and_if_it_asks(
    supervised: Supervised, process: SpawnedProcess, messages: list[str], seconds: float
) -> None:
    process.notify(*messages)
    supervised.reactor.turns(seconds)
    assert process.signals == []
    supervised.reactor.turns(CHECK_SECONDS)
    assert process.signals == [signal.SIGABRT]


@pytest.mark.parametrize("late", [0.6, 1.2, 1.9, 10.0])
def test_supervisor_that_was_late_blames_no_worker(
    supervised: Supervised, process: SpawnedProcess, late: float
) -> None:
    """
    After a delay of the supervisor itself, each worker has the whole timeout again.
    """
    process.notify(READY)
    supervised.reactor.turn(WATCHDOG / 4)
    # As if the clock advanced and no call was made.
    supervised.reactor.turn(late * WATCHDOG)
    supervised.reactor.turns(WATCHDOG - TURN)
    assert process.signals == []
    supervised.reactor.turns(WATCHDOG / 2)
    assert process.signals[:1] == [signal.SIGABRT]


def test_retired_worker_gets_sigterm_then_sigkill(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    """
    No other process follows.
    """
    process.notify(READY)
    worker.retire()
    assert process.signals == [signal.SIGTERM]
    supervised.pass_time(STOP_TIMEOUT_SECONDS)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    process.end(by=signal.SIGKILL)
    assert supervised.pool.workers == []
    supervised.reactor.turns(10.0)
    assert supervised.processes == []


def test_retired_silent_worker_gets_sigkill_no_later(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    """
    A retired worker has longer until its SIGKILL than a silent one.
    """
    process.notify(READY)
    supervised.reactor.turns(WATCHDOG + CHECK_SECONDS)
    worker.retire()
    supervised.reactor.turns(TRACEBACK_SECONDS)
    assert process.signals == [signal.SIGABRT, signal.SIGKILL]


def test_retired_worker_without_a_process_is_not_started(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    process.end(status=1)
    assert supervised.pool.workers == [worker]
    worker.retire()
    supervised.pool.after_change()
    assert supervised.pool.workers == []
    supervised.reactor.turns(10.0)
    assert supervised.processes == []


def test_next_process_has_nothing_from_the_last_one(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    process.notify("EXTEND_TIMEOUT_USEC=1", READY, "STATUS=serving")
    with capturedLogs() as events:
        process.write_output(b"last words")
        process.end(status=1)
        supervised.reactor.turns(0.125)
        supervised.processes[0].write_output(b"first words\n")
    lines = [event["line"] for event in events if "line" in event]
    assert lines == ["last words", "first words"]
    assert (worker.status_text, worker.exit_status) == ("", 0)
    assert [worker.was_active, worker.was_up, worker.is_verifying] == [False] * 3
    assert worker.started_at > 0
    supervised.reactor.turns(WATCHDOG + CHECK_SECONDS)
    assert supervised.processes[0].signals == []


def test_ended_process_gets_no_signal(
    supervised: Supervised, worker: SupervisedWorker, process: SpawnedProcess
) -> None:
    # The supervisor may not have noticed the end yet.
    process.alive = False
    worker.retire()
    process.end()
    assert not worker.running
    # Now another process may have its process id.
    process.alive = True
    supervised.reactor.turns(2 * STOP_TIMEOUT_SECONDS)
    assert process.signals == []
