"""
A load that is judged by the history, whatever the client believes.
"""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from pexservice.cli.loading import Found, make_load
from pexservice.client import Cursor
from tests.support.fake_service import Disturbance, FakeService, problem

URL = "http://service.example"


@pytest.fixture
def service() -> FakeService:
    """
    Provide a service in memory.
    """
    return FakeService(Clock())


def load(service: FakeService, connections: int = 1) -> Found:
    """
    Make a load for two seconds; time goes on only where requests are sent again.
    """
    service.every_other = problem(503, "not-taken")
    cursor = Cursor(URL, reactor=service.clock, agent=service.agent, deadline=3)
    return service.after(
        make_load(cursor, connections, 2.0, lambda *_: None, service.clock.seconds)
    )


def test_all_is_well(service: FakeService) -> None:
    """
    The history of a good service has as many steps as the client was answered.
    """
    service.step("next")
    found = load(service, 5)
    assert found.answered == service.revision - 1 > 0
    assert (found.lost, found.doubled, found.unknown, found.unseen) == (0, 0, 0, 0)
    assert 0 < found.median <= found.p99 <= found.longest
    assert "lost 0, doubled 0" in found.words().splitlines()[-1]


def test_somebody_elses(service: FakeService) -> None:
    """
    Steps that another client made are counted as doubled.

    The report says that they may be another client's.
    """
    service.clock.callLater(1.0, service.step, "next")
    found = load(service)
    assert (found.lost, found.doubled) == (0, 1)
    assert "doubled 1 (or another client's" in found.words()


def test_lost(service: FakeService) -> None:
    """
    A service that takes back answered steps is found out.
    """

    def lose() -> None:
        for row in service.rows:
            row["position"] += 1

    service.clock.callLater(1.0, lose)
    found = load(service)
    assert 0 < found.lost < found.answered


def test_forgotten(service: FakeService) -> None:
    """
    Steps that the history has forgotten are not called lost, but are reported.
    """
    service.clock.callLater(1.0, setattr, service, "kept", 2)
    found = load(service)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.unseen == found.answered - 2
    assert f"has forgotten {found.unseen}" in found.words()


def test_unknown(service: FakeService) -> None:
    """
    Steps without an answer are reported as unknown, whether they were made or not.
    """
    service.clock.callLater(1.0, setattr, service, "always", Disturbance(silent=True))
    service.clock.callLater(3.5, setattr, service, "always", None)
    found = load(service)
    assert (found.lost, found.doubled, found.unknown) == (0, 0, 1)
    assert "outcome unknown: 1" in found.words()
