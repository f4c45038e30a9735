"""
What the supervisor decides by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.python.failure import Failure

from pexservice.process import scoreboard
from pexservice.process.exit_status import Leaving, Status
from pexservice.process.sd_notify import READY, STANDING_BY, STOPPING, Listener
from pexservice.settings.options import Settings, Supervision
from pexservice.supervisor.service import STEP_ASIDE, Supervisor
from tests.unit.supervisor.test_worker_process import Processes


def test_a_suspicious_end_counts_at_once() -> None:
    """
    Who waits for a worker to leave, as a replacement of the workers does, starts one
    that looks at the whole store if the store failed.
    """
    leaving = cast(Leaving, SimpleNamespace(leaving=False))
    supervisor = Supervisor(Settings(), Supervision(), Processes(), leaving)
    supervisor._listener = cast(Listener, SimpleNamespace(name="@nowhere"))
    commands: list[Sequence[str]] = []

    def start(_: None) -> None:
        commands.append(supervisor.command("worker-2").arguments)

    supervisor._crew.change().addCallback(start)
    assert "--quick-check" in supervisor.command("worker-1").arguments
    supervisor.ended("worker-1", Failure(ProcessTerminated(Status.STORE_FAILED)))
    assert ["--quick-check" in each for each in commands] == [False]


def supervisor_with(*names: str) -> Supervisor:
    """
    One that runs, with a scoreboard, and workers that nobody has heard of.
    """
    leaving = cast(Leaving, SimpleNamespace(leaving=False, leave=lambda *_: None))
    made = Supervisor(Settings(), Supervision(), Processes(), leaving)
    made.running = True
    for pid, name in enumerate(names, 1):
        made._roster.append(name)
        made.spawned(name, cast(IProcessTransport, SimpleNamespace(pid=pid)))
    return made


def test_one_begins_after_the_other() -> None:
    """
    The first has the processors until it serves, or has ended.
    """
    supervisor = supervisor_with()
    supervisor._listener = cast(Listener, SimpleNamespace(name="@nowhere"))
    processes = cast(Processes, supervisor._base)

    def begun() -> int:
        processes.turn(STEP_ASIDE)
        return len(processes.spawned)

    first, _ = supervisor._add(), supervisor._add()
    assert [begun(), begun(), begun()] == [1, 1, 1]
    supervisor._heard(processes.PID, [READY])
    assert [begun(), begun()] == [2, 2]

    other = supervisor_with()
    other._listener, processes = supervisor._listener, cast(Processes, other._base)
    first, _ = other._add(), other._add()
    assert begun() == 1
    other._crew.left(first)
    assert begun() == 2


def ended(*, signal: int | None = None, status: int | None = None) -> Failure:
    """
    How a process ended.
    """
    return Failure(ProcessTerminated(status, signal))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (ended(signal=9), "killed"),
        (ended(signal=15), "killed"),
        (ended(status=Status.STORE_FAILED), "store_failed"),
        (ended(status=Status.CANNOT_START), "cannot_start"),
        (ended(status=Status.DAMAGED), "failed"),
        (Failure(ProcessDone(0)), "failed"),
    ],
)
def test_why_workers_are_restarted(how: Failure, reason: str) -> None:
    """
    Each end counts once, as one of the reasons.
    """
    supervisor = supervisor_with("worker-1")
    supervisor.ended("worker-1", how)
    restarts = supervisor._score.restarts
    assert {each: count for each, count in restarts.items() if count} == {reason: 1}


def test_a_worker_that_was_condemned_was_silent() -> None:
    """
    Whatever it takes to end it.
    """
    supervisor = supervisor_with("worker-1")
    supervisor._crew._members["worker-1"].condemned = True
    supervisor.ended("worker-1", ended(signal=9))
    assert supervisor._score.restarts["silent"] == 1


def test_only_who_served_fails_over() -> None:
    """
    A standby that dies is a restart; so is one that was told to go.  One that says that
    it is stopping before it ends by itself has served all the same.
    """
    supervisor = supervisor_with("worker-1", "worker-2", "worker-3")
    supervisor._heard(1, [READY])
    supervisor.ended("worker-2", ended(signal=9))
    assert supervisor._score.failovers == 0
    supervisor._heard(1, [STOPPING])
    supervisor.ended("worker-1", ended(status=Status.STORE_FAILED))
    assert supervisor._score.failovers == 1
    supervisor._heard(3, [READY])
    supervisor._roster.remove("worker-3")
    supervisor.ended("worker-3", Failure(ProcessDone(0)))
    assert supervisor._score.failovers == 1
    assert supervisor._score.restarts["replaced"] == 1


def test_who_is_stopped_is_not_restarted() -> None:
    """
    When the supervisor stops, its workers end for good.
    """
    supervisor = supervisor_with("worker-1")
    supervisor._heard(1, [READY])
    supervisor.running = False
    supervisor.ended("worker-1", ended(signal=15))
    assert set(supervisor._score.restarts.values()) == {0}
    assert supervisor._score.failovers == 0


def test_the_score_is_shown_as_it_changes() -> None:
    """
    To workers, which have the descriptor under a number that they are told.
    """
    supervisor = supervisor_with("worker-1", "worker-2")
    supervisor._listener = cast(Listener, SimpleNamespace(name="@nowhere"))
    assert "--scoreboard" not in supervisor.command("worker-1").arguments
    supervisor._scoreboard = ours = scoreboard.create()
    try:
        command = supervisor.command("worker-1")
        number = command.arguments[command.arguments.index("--scoreboard") + 1]
        assert command.descriptors[int(number)] == ours
        supervisor._heard(2, [STANDING_BY])
        shown = scoreboard.read(ours)
        assert shown is not None
        assert (shown.standing_by, shown.standby, shown.failovers) == (1, 1, 0)
        supervisor.ended("worker-2", ended(signal=9))
        shown = scoreboard.read(ours)
        assert shown is not None
        assert (shown.standing_by, shown.restarts["killed"]) == (0, 1)
    finally:
        os.close(ours)
