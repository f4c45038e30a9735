"""
A load, whose outcomes are compared with the history.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from pexservice.cli.load import Load, Report
from pexservice.client import Cursor, CursorError, Refused, UnexpectedAnswer
from tests.support.fake_service import Disturbance, FakeService, problem

URL = "http://service.example"


@pytest.fixture
def service() -> FakeService:
    """
    Provide a service in memory.
    """
    return FakeService(Clock())


NOT_TAKEN = problem(503, "not-taken")
CUT = Disturbance(cut=True, makes_step=True)


def load(
    service: FakeService,
    connections: int = 1,
    show: Callable[[str, float], object] = lambda *_: None,
    every_other: Disturbance = NOT_TAKEN,
) -> Report:
    """
    Make a load for two seconds; time passes only where requests are sent again.
    """
    service.every_other = every_other
    cursor = Cursor(URL, reactor=service.clock, agent=service.agent, deadline=3)
    return service.after(Load(2.0, show, service.clock.seconds).run(cursor, connections))


@pytest.mark.parametrize("disturbance", [NOT_TAKEN, CUT])
def test_load_whose_steps_are_repeated_reports_nothing_lost_or_doubled(
    service: FakeService, disturbance: Disturbance
) -> None:
    service.step("next")
    report = load(service, 5, every_other=disturbance)
    assert report.answered == service.revision - 1 > 0
    assert (report.replayed > 0) == (disturbance is CUT)
    assert (report.lost, report.doubled, report.unknown, report.unseen) == (0, 0, 0, 0)
    assert 0 < report.median <= report.p99 <= report.longest
    assert "lost 0, doubled 0" in report.text().splitlines()[-1]


def test_steps_of_another_client_count_as_doubled_and_the_report_says_so(
    service: FakeService,
) -> None:
    service.clock.callLater(1.0, service.step, "next")
    report = load(service)
    assert (report.lost, report.doubled) == (0, 1)
    assert "doubled 1 (or another client's" in report.text()


def test_step_that_the_service_takes_back_is_lost(service: FakeService) -> None:

    def lose() -> None:
        for row in service.rows:
            row["position"] += 1

    service.clock.callLater(1.0, lose)
    report = load(service)
    assert 0 < (report.lost or 0) < report.answered


@pytest.mark.parametrize("count", [1, 3])
def test_acknowledged_steps_that_the_store_has_lost_are_lost_and_not_doubled(
    service: FakeService, count: int
) -> None:
    """
    With --synchronous-commit off, a crash may lose the newest steps.
    """

    def crash(text: str, _: float) -> None:
        if text == "reading the history":
            del service.rows[:count]

    report = load(service, show=crash)
    assert (report.lost, report.doubled, report.unseen) == (count, 0, 0)


def test_steps_that_the_history_no_longer_keeps_are_unseen_and_not_lost(
    service: FakeService,
) -> None:
    service.clock.callLater(1.0, setattr, service, "kept", 2)
    report = load(service)
    assert (report.lost, report.doubled) == (0, 0)
    assert report.unseen == report.answered - 2
    assert f"no longer keeps {report.unseen}" in report.text()


def test_steps_without_a_response_are_unknown(service: FakeService) -> None:
    service.clock.callLater(1.0, setattr, service, "always", Disturbance(silent=True))
    service.clock.callLater(3.5, setattr, service, "always", None)
    report = load(service)
    assert (report.lost, report.doubled, report.unknown) == (0, 0, 1)
    assert "outcome unknown: 1" in report.text()


def test_steps_that_the_service_did_not_take_are_not_made(service: FakeService) -> None:
    service.clock.callLater(1.0, setattr, service, "always", problem(503, "not-taken"))
    service.clock.callLater(4.5, setattr, service, "always", None)
    report = load(service)
    assert (report.lost, report.unknown, report.not_made) == (0, 0, 1)
    assert "not made before the deadline: 1" in report.text()


@pytest.mark.parametrize(
    ("always", "error", "unknown"),
    [
        (problem(401, "unauthorized"), Refused, 0),
        (Disturbance(status=200, body=b"hello"), UnexpectedAnswer, 1),
    ],
)
def test_final_response_that_is_no_state_ends_the_load(
    service: FakeService, always: Disturbance, error: type[CursorError], unknown: int
) -> None:
    service.clock.callLater(1.0, setattr, service, "always", always)
    service.every_other = NOT_TAKEN
    running = Load(2.0, lambda *_: None, service.clock.seconds)
    cursor = Cursor(URL, reactor=service.clock, agent=service.agent)
    with pytest.raises(error):
        service.after(running.run(cursor, 1))
    assert running.report().unknown == unknown
