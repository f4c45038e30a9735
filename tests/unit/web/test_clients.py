"""
Tests of the client that sent a request: its address, and how many requests it may send.
"""

from __future__ import annotations

import pytest

from pexservice.web import clients as module
from pexservice.web.clients import Clients, RateLimit
from tests.support.fakes import Turns

#: Hosts; C{None} stands for a Unix socket.
PROXY, LOCAL, STRANGER = "10.0.0.9", "127.0.0.1", "203.0.113.7"
UNIX = None


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (UNIX, [b"1.1.1.1", b"192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"192.0.2.1, 10.0.0.9"], "192.0.2.1"),
        (UNIX, [b"2001:DB8::1"], "2001:db8::1"),
        (UNIX, None, None),
        (UNIX, [b"unknown"], None),
        (UNIX, [b"unknown, 192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"\xff\xff"], None),
        (PROXY, None, "10.0.0.9"),
        # With the client's port, as some proxies write it.
        (UNIX, [b"9.9.9.1:4000"], "9.9.9.1"),
        (UNIX, [b"[2001:db8::1]:443"], "2001:db8::1"),
        (UNIX, [b"\t9.9.9.1 , [::ffff:10.0.0.9]:80"], "9.9.9.1"),
        (UNIX, [b"9.9.9.1:123456"], None),
        (UNIX, [b"[9.9.9.1]:1"], "9.9.9.1"),
        (UNIX, [b"[2001:db8::1"], None),
        (UNIX, [b"1" * 16000], None),
        # On a dual-stack listener.
        ("::ffff:10.0.0.9", [b"192.0.2.1"], "192.0.2.1"),
        ("::ffff:203.0.113.7", [b"192.0.2.1"], "203.0.113.7"),
        ("2001:db8::7", [b"192.0.2.1"], "2001:db8::7"),
        ("fe80::1%lo", [b"192.0.2.1"], "fe80::1%lo"),
        (UNIX, [b"::ffff:192.0.2.1"], "192.0.2.1"),
    ],
)
def test_client_is_the_last_forwarded_address_that_is_no_trusted_proxy(
    peer: str | None, forwarded: list[bytes] | None, expected: str | None
) -> None:
    """
    Only a trusted proxy is believed.
    """
    clients = Clients(["10.0.0.9"])
    address = clients.client_address(clients.peer(peer, ""), forwarded)
    assert address == (expected or "")


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (UNIX, None, ""),
        (PROXY, None, ""),
        (PROXY, [b"10.0.0.9"], ""),
        (PROXY, [b"192.0.2.1"], "192.0.2.1"),
        (STRANGER, [b"192.0.2.1"], STRANGER),
        ("2001:db8:1:2:3::7", None, "2001:db8:1:2::"),
        ("fe80::1%lo", None, "fe80::"),
    ],
)
def test_client_is_an_address_or_an_ipv6_network_and_no_proxy(
    peer: str | None, forwarded: list[bytes] | None, expected: str
) -> None:
    clients = Clients(["10.0.0.9"])
    assert clients.client_of(clients.peer(peer, ""), forwarded) == expected


def test_trusted_proxy_is_recognized_in_any_spelling() -> None:
    """
    A dual-stack listener has another spelling.
    """
    clients = Clients(["::ffff:10.0.0.9", "2001:DB8:0::9"])
    assert clients.peer(PROXY, "").trusted
    assert clients.peer("2001:db8::9", "").trusted
    assert not clients.peer(STRANGER, "").trusted


def test_an_unknown_address_is_never_trusted() -> None:
    """
    A TCP peer without an address is no proxy, and its C{Host} is checked over loopback.
    """
    peer = Clients(["10.0.0.9"]).peer("", LOCAL)
    assert (peer.trusted, peer.is_local) == (False, True)


@pytest.mark.parametrize(
    ("local", "peer", "checked"),
    [
        (LOCAL, LOCAL, True),
        ("127.0.0.5", LOCAL, True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("fe80::1%lo", "fe80::1%lo", False),
        (LOCAL, PROXY, False),
        (LOCAL, "::ffff:10.0.0.9", False),
        ("192.0.2.7", LOCAL, False),
        ("2001:db8::1", LOCAL, False),
        ("::ffff:192.0.2.7", LOCAL, False),
        ("", UNIX, False),
    ],
)
def test_host_is_checked_on_loopback_except_for_proxies(
    local: str, peer: str | None, *, checked: bool
) -> None:
    """
    The local address decides, and not the listener.
    """
    clients = Clients(["10.0.0.9"])
    assert clients.peer(peer, local).is_local is checked


@pytest.mark.parametrize("rate", [1, 3, 7, 10, 1000])
def test_client_may_send_its_rate_at_once_or_spread(rate: int) -> None:
    """
    Afterwards, the client may send a request each time its allowance has grown by one.
    """
    clock = Turns()
    limit = RateLimit(rate, clock.seconds)
    assert [limit.take(STRANGER) for _ in range(rate + 2)] == [True] * rate + [False] * 2
    clock.rightNow += 1.0001 / rate
    assert [limit.take(STRANGER) for _ in range(2)] == [True, False]
    clock.rightNow += 100
    assert [limit.take(STRANGER) for _ in range(rate + 1)] == [True] * rate + [False]


def test_clients_with_a_full_allowance_or_no_recent_request_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 100)
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
