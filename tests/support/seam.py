"""
The only module through which the recorded conversations use classes of the server.

Its functions serve L{tests.support.recorded}, L{tests.support.framing}, the tests that use
L{hold}, and the test that Twisted's own C{Site} can serve the Klein app.  If the server's
classes change, only these short functions change.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

from pexservice.server.limits import KEEP_ALIVE_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS
from pexservice.web.access import Access
from pexservice.web.endpoints import POST_ONLY_TABLE
from pexservice.web.twisted_resource import ApiResource
from tests.support.wire import Server, Wire

#: The token that the setup "tokens" accepts.
TOKEN = "secret-token"  # noqa: S105 of these tests only

_REMOTE = IPv4Address("TCP", "192.0.2.1", 50_000)
_LISTENER = IPv4Address("TCP", "192.0.2.80", 8081)
_LOOPBACK = IPv4Address("TCP", "127.0.0.1", 50_000)
_LOCAL = IPv4Address("TCP", "127.0.0.1", 8081)

#: For each setup: the options of the server, and peer and local address of a connection.
_SETUPS: dict[str, tuple[dict[str, Any], object, object]] = {
    "remote": ({"logs": True}, _REMOTE, _LISTENER),
    "loopback": ({"logs": True, "hosts": ("allowed.example",)}, _LOOPBACK, _LOCAL),
    "unix": ({"logs": True}, UNIXAddress(None), UNIXAddress(b"/run/socket")),
    "tokens": (
        {"access": Access(frozenset({sha256(TOKEN.encode()).digest()}))},
        _LOOPBACK,
        _LOCAL,
    ),
    "pages": ({"access": Access(None, ("https://a.example",))}, _REMOTE, _LISTENER),
    "limited": ({"logs": True, "rate": 3, "proxies": ("192.0.2.1",)}, _REMOTE, _LISTENER),
    "post only": ({"table": POST_ONLY_TABLE}, _REMOTE, _LISTENER),
}

SETUPS = tuple(_SETUPS)

#: A patient client waits for this many iterations of the event loop between two chunks.
_TURNS = 12


@frozen
class Exchange:
    """
    What happened on one connection.

    @ivar received: the bytes that the client received, without the C{Date} headers.
    @ivar closed: the server closed the connection, or its half of it.
    @ivar log_lines: the lines of the access log, if the setup has one.
    """

    received: bytes
    closed: bool
    log_lines: tuple[bytes, ...]


def serve(setup: str, **options: Any) -> Server:
    """
    Return a new server with an empty store.

    @param options: arguments of the server in addition to those of the setup.
    """
    return Server(**{**_SETUPS[setup][0], **options})


def converse(setup: str, chunks: Sequence[bytes], *, patient: bool, ends: bool) -> Exchange:
    """
    Send C{chunks} on the first connection of a new server; see L{hold}.
    """
    _, peer, local = _SETUPS[setup]
    return hold(serve(setup).connect(peer, local), chunks, patient=patient, ends=ends)


def hold(
    wire: Wire,
    chunks: Sequence[bytes],
    *,
    patient: bool,
    ends: bool,
    waits: bool = False,
) -> Exchange:
    """
    Send C{chunks} on a connection, and then close it.

    @param patient: the client waits for responses between two chunks.
    @param ends: the client closes its half of the connection after the last chunk.
    @param waits: the client waits until every timeout of the connection is over.
    """
    for chunk in chunks:
        wire.send(chunk)
        if patient:
            wire.turns(_TURNS)
    wire.turns()
    if ends:
        wire.end()
        wire.turns()
    for _ in range(2 * waits):
        # A request may arrive late, and then the connection may stay idle.
        wire.server.clock.turn(1 + max(REQUEST_TIMEOUT_SECONDS, KEEP_ALIVE_TIMEOUT_SECONDS))
        wire.server.connections.sweep()
        wire.turns()
    exchange = Exchange(wire.received, wire.closed, tuple(wire.server.lines))
    wire.lose()
    return exchange


def converse_with_site(setup: str, chunks: Sequence[bytes]) -> bytes:
    """
    Send C{chunks} one by one to Twisted's own C{Site}, which serves the Klein app.

    @return: the bytes that the client received.
    """
    _, peer, local = _SETUPS[setup]
    server = serve(setup)
    transport = StringTransport(peerAddress=peer, hostAddress=local)
    resource = ApiResource(server.api.call_handler, server.checker)
    site = Site(resource, timeout=None, reactor=server.clock)
    protocol = site.buildProtocol(peer)
    protocol.makeConnection(transport)
    for chunk in chunks:
        protocol.dataReceived(chunk)
        server.turns(_TURNS)
    received: bytes = transport.value()
    return received
