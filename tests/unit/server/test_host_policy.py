"""
Tests of the check of Host on connections, with the plan cache and without.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from tests.support.wire import Server

LOOPBACK = IPv4Address("TCP", "127.0.0.1", 8081)
MAPPED = IPv6Address("TCP", "::ffff:127.0.0.1", 8081)
LAN = IPv4Address("TCP", "192.0.2.7", 8081)
UNIX = UNIXAddress("/run/socket")

CLIENT = IPv4Address("TCP", "127.0.0.1", 40000)
PROXY = IPv4Address("TCP", "127.0.0.9", 40000)

REQUESTS = [
    f"{line} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n".encode()
    for line in ("GET /current", "POST /next", "GET /nothing", "OPTIONS /next")
    for host in ("localhost:8081", "pex.example.org", "attacker.example", "127.0.0.1")
    for end in ("", "Connection: close\r\n")
]


def answer(server: Server, local: IAddress, peer: IAddress, request: bytes) -> bytes:
    """
    Return the response to C{request} on its own connection.
    """
    wire = server.connect(peer, local)
    wire.send(request)
    wire.turns()
    wire.end()
    return wire.received


def server(*, remembers: bool = True) -> Server:
    """
    Return a server with an allowed host and a known proxy.
    """
    names = ("pex.example.org",)
    return Server(remembers=remembers, hosts=names, proxies=("127.0.0.9",))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([LOOPBACK, MAPPED, LAN, UNIX]),
            st.sampled_from([CLIENT, PROXY]),
            st.sampled_from(REQUESTS),
        ),
        max_size=12,
    )
)
def test_host_check_is_the_same_with_and_without_plans(
    requests: list[tuple[IAddress, IAddress, bytes]],
) -> None:
    """
    A plan learnt on an unchecked connection gets no request past the check on another.

    A connection is checked if the Host of its requests is checked.  The answer is 421 if,
    and only if, the host is foreign and the connection is checked.
    """
    cached, parsed = server(), server(remembers=False)
    for local, peer, request in requests:
        got = answer(cached, local, peer, request)
        assert got == answer(parsed, local, peer, request)
        foreign = b"Host: attacker" in request
        checked = local in (LOOPBACK, MAPPED) and peer is CLIENT
        assert (b" 421 " in got) is (foreign and checked)
    assert cached.committer.durable.revision == parsed.committer.durable.revision


def test_every_answer_forbids_sniffing_and_embedding() -> None:
    """
    Every answer forbids sniffing and embedding.

    This holds also for an answer from the plan cache or to a malformed request.
    """
    tested_server = server()
    malformed = [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 17000]
    for sent in [*REQUESTS, *REQUESTS, *malformed]:
        got = answer(tested_server, LAN, CLIENT, sent)
        head = got.partition(b"\r\n\r\n")[0] + b"\r\n"
        assert head.count(b"\r\nX-Content-Type-Options: nosniff\r\n") == 1, got
        assert head.count(b"\r\nCross-Origin-Resource-Policy: same-origin\r\n") == 1, got
