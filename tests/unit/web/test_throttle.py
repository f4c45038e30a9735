"""
Tests of the rate limit: how many requests a client may send.
"""

from __future__ import annotations

import pytest

from pexservice.web import clients
from pexservice.web.clients import RateLimit
from tests.support.fakes import Turns

ONE = "10.0.0.1"


@pytest.mark.parametrize("rate", [1, 3, 7, 10, 1000])
def test_client_may_send_its_rate_at_once_or_spread(rate: int) -> None:
    """
    Afterwards, the client may send a request each time its allowance has grown by one.
    """
    clock = Turns()
    limit = RateLimit(rate, clock.seconds)
    assert [limit.take(ONE) for _ in range(rate + 2)] == [True] * rate + [False] * 2
    clock.rightNow += 1.0001 / rate
    assert [limit.take(ONE) for _ in range(2)] == [True, False]
    clock.rightNow += 100
    assert [limit.take(ONE) for _ in range(rate + 1)] == [True] * rate + [False]


def test_clients_with_a_full_allowance_or_no_recent_request_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "MAX_CLIENTS", 100)
    clock = Turns()
    limit = RateLimit(10, clock.seconds)
    for number in range(200):
        limit.take(str(number))
        clock.rightNow += 1e-7
        assert len(limit._full_at) <= 100
    assert "199" in limit._full_at
    clock.rightNow += 1
    for number in range(100):
        limit.take(f"x{number}")
    assert [*limit._full_at] == [f"x{number}" for number in range(100)]


def test_an_ipv6_network_counts_as_one_client() -> None:
    """
    The owner of a network has all its addresses.
    """
    limit = RateLimit(1, Turns().seconds)
    addresses = ("2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1", "", "")
    assert [*map(limit.take, addresses)] == [True, False, True, True, False]
