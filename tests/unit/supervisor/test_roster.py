"""
What the supervisor knows of its workers.
"""

from __future__ import annotations

from typing import Any

import pytest

from pexservice.process.sd_notify import ALIVE, READY, STANDING_BY, STOPPING
from pexservice.supervisor.roster import HEAD_START, START_PATIENCE, Crew
from tests.support.fakes import Turns

WATCHDOG = 5.0


class Process:
    """
    A worker's transport, as far as it is looked at.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid


@pytest.fixture
def clock() -> Turns:
    """
    The crew's.
    """
    return Turns()


@pytest.fixture
def crew(clock: Turns) -> Crew:
    """
    Two workers, as they begin.
    """
    crew = Crew(clock.seconds, WATCHDOG)
    for pid in (1, 2):
        joined(crew, f"worker-{pid}", pid)
    return crew


def joined(crew: Crew, name: str, pid: int) -> None:
    """
    A worker runs.
    """
    process: Any = Process(pid)
    crew.joined(name, process)


def condemned(crew: Crew) -> list[int]:
    """
    The process ids of those that have been silent for too long.
    """
    return [each.pid for each in crew.condemn()]


def test_who_serves(crew: Crew) -> None:
    """
    By what they say.
    """
    assert not crew.is_up("worker-1")
    crew.hear(1, [READY, "STATUS=serving"])
    crew.hear(2, [STANDING_BY])
    assert crew.serves("worker-1")
    assert not crew.serves("worker-2")
    assert crew.is_up("worker-2")
    crew.hear(1, [STOPPING])
    assert not crew.serves("worker-1")
    assert not crew.is_up("nobody")


def test_succession(crew: Crew, clock: Turns) -> None:
    """
    Between the end of the one and the beginning of the other, and not when nobody is
    there to take over.
    """
    crew.hear(1, [READY])
    crew.hear(2, [STANDING_BY])
    assert not crew.in_succession
    clock.turn(HEAD_START)
    crew.left("worker-1")
    assert crew.in_succession
    crew.hear(2, [READY])
    assert not crew.in_succession
    crew.hear(2, [STOPPING])
    assert not crew.in_succession
    crew.left("worker-2")
    assert not crew.in_succession


def test_who_has_begun_is_about_to_serve(crew: Crew, clock: Turns) -> None:
    """
    For a while; whoever has not come up by then does not keep others from it.
    """
    crew.left("worker-2")
    crew.hear(1, [ALIVE])
    clock.turn(HEAD_START - 0.1)
    assert crew.in_succession
    clock.turn(0.1)
    assert not crew.in_succession


def test_what_is_passed_on(crew: Crew) -> None:
    """
    That the service is ready, that somebody is alive, and what the one that serves
    does; nothing from strangers.
    """
    assert crew.hear(2, [STANDING_BY]) == []
    assert crew.hear(2, [ALIVE]) == [ALIVE]
    assert crew.hear(2, [READY, "STATUS=serving"]) == [READY, "STATUS=serving"]
    assert crew.hear(2, [STOPPING, "MAINPID=7"]) == []
    assert crew.hear(99, [READY, ALIVE]) == []


def test_a_lost_datagram(crew: Crew) -> None:
    """
    The state comes again with each beat, and is news only once.
    """
    assert crew.hear(1, [ALIVE, READY]) == [ALIVE, READY]
    told: list[None] = []
    crew.change().addCallback(told.append)
    assert crew.hear(1, [ALIVE, READY]) == [ALIVE]
    assert told == []
    assert crew.serves("worker-1")


def test_we_were_late(crew: Crew, clock: Turns) -> None:
    """
    A supervisor that was stopped itself does not blame its workers.
    """
    crew.hear(1, [READY])
    crew.hear(2, [STANDING_BY])
    clock.turn(10 * WATCHDOG)
    assert condemned(crew) == []
    assert look(crew, clock, WATCHDOG + 0.5) == [1, 2]


def look(crew: Crew, clock: Turns, seconds: float) -> list[int]:
    """
    Look again and again, as a supervisor does, for so long.
    """
    found = []
    while seconds > 0:
        clock.turn(min(1.0, seconds))
        seconds -= 1.0
        found += condemned(crew)
    return found


def test_silence(crew: Crew, clock: Turns) -> None:
    """
    Who has spoken and is silent for too long is condemned, once.
    """
    crew.hear(1, [READY])
    crew.hear(2, [STANDING_BY])
    assert look(crew, clock, WATCHDOG - 1) == []
    crew.hear(2, [ALIVE])
    assert look(crew, clock, 1.5) == [1]
    assert look(crew, clock, WATCHDOG) == [2]


def test_a_slow_start(crew: Crew, clock: Turns) -> None:
    """
    The first word may take longer, for a large store is read before it.
    """
    assert look(crew, clock, START_PATIENCE) == []
    assert look(crew, clock, 0.1) == [1, 2]


def test_changes(crew: Crew) -> None:
    """
    Who waits is told when one begins to serve or to stand by, or ends, and not of
    each beat.
    """
    for stirs, change in (
        (False, lambda: crew.hear(1, [ALIVE])),
        (True, lambda: crew.hear(1, [READY])),
        (True, lambda: crew.hear(2, [STANDING_BY])),
        (False, lambda: crew.hear(2, ["STATUS=waiting"])),
        (True, lambda: crew.left("worker-2")),
    ):
        told: list[None] = []
        crew.change().addCallback(told.append)
        change()
        assert bool(told) == stirs


def test_the_end(crew: Crew) -> None:
    """
    Its last status is its reason; who never ran had none.
    """
    crew.hear(1, ["STATUS=the store is damaged"])
    assert crew.left("worker-1") == "the store is damaged"
    assert crew.left("worker-1") == ""
    assert crew.left("nobody") == ""
    assert "worker-1" not in crew
    assert crew.pids == {2}
    crew.left("worker-2")
    assert not crew
