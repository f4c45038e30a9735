"""
Tests of the address of the client that sent a request.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from pexservice.web.clients import Clients, host_of, is_loopback

PROXY = IPv4Address("TCP", "10.0.0.9", 1)
UNIX = UNIXAddress(None)
LOCAL = IPv4Address("TCP", "127.0.0.1", 8081)
CLIENT = IPv4Address("TCP", "127.0.0.1", 40000)
STRANGER = IPv4Address("TCP", "203.0.113.7", 1)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (UNIX, [b"192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"1.1.1.1, 192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"1.1.1.1", b"192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"192.0.2.1, 10.0.0.9"], "192.0.2.1"),
        (UNIX, [b"10.0.0.9"], "10.0.0.9"),
        (UNIX, [b"2001:DB8::1"], "2001:db8::1"),
        (UNIX, None, None),
        (UNIX, [b"unknown"], None),
        (UNIX, [b"unknown, 192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"\xff\xff"], None),
        (PROXY, [b"192.0.2.1"], "192.0.2.1"),
        (STRANGER, [b"192.0.2.1"], "203.0.113.7"),
        (PROXY, None, "10.0.0.9"),
        # With the client's port, as some proxies write it.
        (UNIX, [b"9.9.9.1:4000"], "9.9.9.1"),
        (UNIX, [b"[2001:db8::1]:443"], "2001:db8::1"),
        (UNIX, [b"[2001:db8::1]"], "2001:db8::1"),
        (UNIX, [b"9.9.9.1:4000, 10.0.0.9:80"], "9.9.9.1"),
        (UNIX, [b"\t9.9.9.1 , [::ffff:10.0.0.9]:80"], "9.9.9.1"),
        (UNIX, [b"9.9.9.1:"], None),
        (UNIX, [b"9.9.9.1:123456"], None),
        (UNIX, [b"[9.9.9.1]:1"], "9.9.9.1"),
        (UNIX, [b"[2001:db8::1"], None),
        (UNIX, [b"2001:db8::1]:443"], None),
        (UNIX, [b"1.2.3:4000"], None),
        (UNIX, [b":" * 16000], None),
        (UNIX, [b"1" * 16000], None),
        # On a dual-stack listener.
        (IPv6Address("TCP", "::ffff:10.0.0.9", 1), [b"192.0.2.1"], "192.0.2.1"),
        (IPv6Address("TCP", "::ffff:203.0.113.7", 1), [b"192.0.2.1"], "203.0.113.7"),
        (IPv6Address("TCP", "::ffff:203.0.113.7", 1), None, "203.0.113.7"),
        (IPv6Address("TCP", "2001:db8::7", 1), [b"192.0.2.1"], "2001:db8::7"),
        (IPv6Address("TCP", "fe80::1%lo", 1), [b"192.0.2.1"], "fe80::1%lo"),
        (UNIX, [b"::ffff:192.0.2.1"], "192.0.2.1"),
    ],
)
def test_address(
    peer: IAddress, forwarded: list[bytes] | None, expected: str | None
) -> None:
    """
    The client is the last address that is no known proxy's.

    Only a known proxy is believed.
    """
    clients = Clients(["10.0.0.9"])
    caller = clients.caller(peer, UNIX)
    assert clients.host(caller, forwarded) == (expected or "")


def test_a_proxy_by_any_spelling() -> None:
    """
    An operator may name a proxy in any spelling, also as a dual-stack listener has it.
    """
    clients = Clients(["::ffff:10.0.0.9", "2001:DB8:0::9"])
    assert clients.trusts(PROXY)
    assert clients.trusts(IPv6Address("TCP", "2001:db8::9", 1))
    assert not clients.trusts(STRANGER)


def test_one_client_for_each_ipv4_address() -> None:
    """
    IPv4 clients of a dual-stack listener have an allowance each.
    """
    one, other = (IPv6Address("TCP", f"::ffff:192.0.2.{each}", 1) for each in (1, 2))
    assert (host_of(one), host_of(other)) == ("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), True),
        (IPv4Address("TCP", "127.8.8.8", 1), True),
        (IPv6Address("TCP", "::1", 1), True),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 1), True),
        (PROXY, False),
        (UNIX, False),
        (IPv6Address("TCP", "fe80::1%lo", 1), False),
    ],
)
def test_is_loopback(address: IAddress, *, loopback: bool) -> None:
    """
    An address is loopback only if this machine alone can reach it.
    """
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    ("local", "peer", "checked"),
    [
        (LOCAL, CLIENT, True),
        (IPv4Address("TCP", "127.0.0.5", 1), CLIENT, True),
        (IPv6Address("TCP", "::1", 1), IPv6Address("TCP", "::1", 2), True),
        # A dual-stack listener.
        (
            IPv6Address("TCP", "::ffff:127.0.0.1", 1),
            IPv6Address("TCP", "::ffff:127.0.0.1", 2),
            True,
        ),
        (LOCAL, PROXY, False),
        (LOCAL, IPv6Address("TCP", "::ffff:10.0.0.9", 2), False),
        (IPv4Address("TCP", "192.0.2.7", 1), CLIENT, False),
        (IPv6Address("TCP", "2001:db8::1", 1), CLIENT, False),
        (IPv6Address("TCP", "::ffff:192.0.2.7", 1), CLIENT, False),
        (UNIXAddress("/run/socket"), UNIX, False),
    ],
)
def test_whose_host_is_checked(local: IAddress, peer: IAddress, *, checked: bool) -> None:
    """
    Connections over loopback are checked, whatever the listener, but for those of proxies.
    """
    clients = Clients(["10.0.0.9"])
    assert clients.caller(peer, local).checks_host is checked
