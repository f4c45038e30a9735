"""
Tests of the check of Host.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import capturedLogs, formatEvent

from pexservice.web.clients import Clients
from pexservice.web.dns_rebinding import MOST_LOGGED, HostPolicy

LOCAL = IPv4Address("TCP", "127.0.0.1", 8081)
CLIENT = IPv4Address("TCP", "127.0.0.1", 40000)
PROXY = IPv4Address("TCP", "10.0.0.9", 40000)


def policy(*allowed: str, needed: bool = True) -> HostPolicy:
    """
    Return the policy of a machine called C{Box}.
    """
    clients = Clients(["10.0.0.9"])
    return HostPolicy(allowed, own_name="Box", clients=clients, needed=needed)


@pytest.mark.parametrize(
    "host",
    [
        None,
        b"127.0.0.1",
        b"127.0.0.1:8081",
        b"192.0.2.7",
        b"0.0.0.0:8081",
        b"[::1]",
        b"[::1]:8081",
        b"[2001:DB8::1]:8081",
        b"localhost",
        b"LOCALHOST:8081",
        b"localhost.",
        b"localhost.:8081",
        b"localhost:",
        b"app.localhost:8081",
        b"box",
        b"BOX.:8081",
        b"pex.example.org",
        b"Pex.Example.Org.:443",
    ],
)
def test_answered(host: bytes | None) -> None:
    """
    A request for an allowed name, or one that cannot be anybody else's, is answered.

    Case, port and a final dot do not matter.
    """
    assert policy("PEX.example.org").check(host) is None


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b"attacker.example",
        b"attacker.example:8081",
        b"127.0.0.1.attacker.example",
        b"localhost.attacker.example",
        b"alocalhost",
        b"notpex.example.org",
        b"pex.example.org..",
        b"box.example.org",
        b"[::1",
        b"::1",
        b"[127.0.0.1]",
        b"127.1",
        b"0x7f000001",
        b"127.0.0.1:x",
        b"*",
        b"\xff",
    ],
)
def test_refused(host: bytes) -> None:
    """
    A request for any other name is told which option allows it, without repeating the name.
    """
    problem = policy("pex.example.org").check(host)
    assert problem is not None
    assert (problem.status, problem.name) == (421, "misdirected-request")
    assert "--allowed-host" in problem.detail
    assert "attacker" not in problem.detail


@pytest.mark.parametrize(
    ("local", "peer", "concerned"),
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
        (UNIXAddress("/run/socket"), UNIXAddress(None), False),
    ],
)
def test_whom_it_concerns(local: IAddress, peer: IAddress, *, concerned: bool) -> None:
    """
    Connections over loopback are checked, whatever the listener, but for those of proxies.
    """
    assert policy().concerns(local, peer) is concerned


def test_not_needed() -> None:
    """
    Where steps take a token, or any name is allowed, every host is answered.
    """
    foreign = b"attacker.example"
    assert policy().check(foreign) is not None
    for rules in (policy(needed=False), policy("*"), policy("pex.example.org", "*")):
        assert rules.check(foreign) is None


def test_the_log() -> None:
    """
    Each refused name is logged once, and no more than L{MOST_LOGGED} names are logged.
    """
    rules = policy()
    with capturedLogs() as events:
        for host in (b"a.example", b"A.example:8081", b"b.example.", b"a.example"):
            rules.check(host)
        assert len(events) == 2
        assert "--allowed-host a.example " in formatEvent(events[0])
        for number in range(2 * MOST_LOGGED):
            rules.check(b"%d.example" % number)
    assert len(events) == MOST_LOGGED + 1
    assert "no longer logged" in formatEvent(events[-1])
