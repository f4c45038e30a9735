"""
Who sent a request.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from pexservice.web.clients import Clients

PROXY = IPv4Address("TCP", "10.0.0.9", 1)
UNIX = UNIXAddress(None)
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
        (UNIX, [], None),
        (UNIX, [b"unknown"], None),
        (UNIX, [b"unknown, 192.0.2.1"], "192.0.2.1"),
        (UNIX, [b"\xff\xff"], None),
        (PROXY, [b"192.0.2.1"], "192.0.2.1"),
        (STRANGER, [b"192.0.2.1"], "203.0.113.7"),
    ],
)
def test_address(peer: IAddress, forwarded: list[bytes], expected: str | None) -> None:
    """
    The last that no known proxy is, and only a known proxy is believed.
    """
    clients = Clients(["10.0.0.9"])
    assert getattr(clients.address(peer, forwarded), "host", None) == expected
