"""
Tests of connections: pipelined requests, half-close, time limits, rates and refusals.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from pexservice.server.limits import KEEP_ALIVE_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS
from pexservice.stores.interface import NotTaken, OutcomeUnknown
from pexservice.web.access import Access
from tests.support.wire import Server, Wire

NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"
CURRENT = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def server() -> Server:
    """
    Return a server whose plan cache knows both requests.
    """
    made = Server()
    for request in (NEXT, CURRENT):
        ask(made, request)
    assert len(made.shared.plans) == 2
    return made


def ask(server: Server, *chunks: bytes, peer: object = None) -> Wire:
    """
    Send C{chunks} on a new connection and let everything happen.
    """
    wire = server.connect(peer)
    wire.send(*chunks)
    wire.turns()
    return wire


def statuses(wire: Wire) -> list[int]:
    """
    Return the statuses of the answers that C{wire} got.
    """
    return [
        int(line.split()[1]) for line in wire.received.split(b"\n") if line[:5] == b"HTTP/"
    ]


def test_requests_during_a_step_wait(server: Server) -> None:
    """
    The connection is not read on during a step.

    Requests that arrive meanwhile are answered after the step, in order.
    """
    server.store.held = True
    wire = server.connect()
    wire.send(NEXT, CURRENT, NEXT)
    assert not wire.transport.is_reading()
    wire.turns()
    assert wire.received == b""
    server.store.held = False
    server.store.finish()
    wire.turns()
    assert statuses(wire) == [200, 200, 200]
    assert [b"Pex-Revision: %d" % n in wire.received for n in (1, 2, 3, 4)] == [
        *(False, True, True, False)
    ]


@pytest.mark.parametrize("request_", [NEXT, CURRENT])
def test_a_client_that_does_not_read_is_not_read_from(
    server: Server, request_: bytes
) -> None:
    """
    A client that takes no answers can send no more requests until it takes them.

    This holds whether the connection has a channel or not.
    """
    wire = server.connect()
    wire.protocol.pause_writing()
    wire.send(request_, request_)
    wire.turns()
    assert wire.received == b""
    assert wire.protocol.blocked_since
    wire.protocol.resume_writing()
    wire.turns()
    assert statuses(wire) == [200, 200]
    assert not wire.protocol.blocked_since


def test_half_closed_during_a_step(server: Server) -> None:
    """
    A client that half-closes its connection during a step gets the answer, then the end.
    """
    server.store.held = True
    wire = ask(server, NEXT)
    wire.half_close()
    assert not wire.closed
    server.store.finish()
    assert statuses(wire) == [200]
    assert wire.closed


def test_half_closed_between_requests(server: Server) -> None:
    """
    A connection that is half-closed between requests is closed at once.
    """
    wire = ask(server, CURRENT)
    wire.half_close()
    assert wire.closed


def test_gone_during_a_step(server: Server) -> None:
    """
    The step of a client that has left is taken, and no answer is sent.
    """
    server.store.held = True
    wire = ask(server, NEXT, CURRENT)
    wire.lose()
    server.store.finish()
    server.turns()
    assert wire.received == b""
    assert server.committer.durable.revision == 2
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [(NotTaken("full"), b"nothing was moved"), (OutcomeUnknown("?"), b"may have")],
)
def test_a_step_that_fails(server: Server, error: Exception, words: bytes) -> None:
    """
    A step that fails gets the same answer through the plan cache as through the parser.
    """
    answers = []
    for request in (NEXT, NEXT.replace(b"Host", b"hOST")):
        server.store.held = True
        wire = ask(server, request)
        server.store.finish(error)
        wire.turns()
        answers.append(wire.received)
        if isinstance(error, OutcomeUnknown):
            server = Server()
            ask(server, NEXT)
    assert statuses(wire) == [503]
    assert words in answers[0]
    if isinstance(error, NotTaken):
        assert answers[0] == answers[1]


@pytest.mark.parametrize("request_", [NEXT, CURRENT])
def test_a_problem_as_json(request_: bytes) -> None:
    """
    A client that accepts JSON for problems alone gets problems as JSON, values as text.
    """
    server = Server()
    request = request_[:-2] + b"Accept: application/problem+json\r\n\r\n"
    assert b"Content-Type: text/plain" in ask(server, request).received
    server.committer.unusable("it is full")
    wire = ask(server, request)
    assert b"Content-Type: application/problem+json" in wire.received
    assert server.shared.requests.planned() == 1


def test_a_drip_is_told(server: Server) -> None:
    """
    A request that does not arrive in time is answered 408, and not before its time is over.
    """
    wire = server.connect()
    for byte in NEXT[:20]:
        wire.send(bytes([byte]))
        server.connections.sweep()
        assert wire.received == b""
        server.clock.rightNow += REQUEST_TIMEOUT_SECONDS / 20
    server.clock.rightNow += 1
    server.connections.sweep()
    assert statuses(wire) == [408]
    assert wire.closed


def test_a_drip_in_a_body() -> None:
    """
    A request whose head is complete and whose body does not arrive in time is answered 408.
    """
    server = Server()
    wire = ask(server, NEXT[:-2] + b"Content-Length: 5\r\n\r\n12")
    server.clock.rightNow += REQUEST_TIMEOUT_SECONDS + 1
    server.connections.sweep()
    assert statuses(wire) == [408]


@pytest.mark.parametrize("request_", [CURRENT, NEXT])
def test_resting_connections_go(server: Server, request_: bytes) -> None:
    """
    A connection that rests too long is closed, and each request starts its time anew.

    This holds also for a request that the plan cache knows: a read, or a step, taken or
    not.
    """
    wires = [
        *(ask(server, request_) for _ in range(3)),
        ask(server, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    ]
    server.clock.rightNow += KEEP_ALIVE_TIMEOUT_SECONDS - 1
    for wire in wires[1:]:
        wire.send(request_)
        wire.turns()
    if request_ == NEXT:
        server.store.held = True
        wires[0].send(request_)
        wires[0].turns()
        server.store.finish(NotTaken("full"))
        wires[0].turns()
        assert statuses(wires[0]) == [200, 503]
    else:
        wires.pop(0).lose()
    server.clock.rightNow += KEEP_ALIVE_TIMEOUT_SECONDS - 1
    server.connections.sweep()
    assert not any(wire.closed for wire in wires)
    server.clock.rightNow += 2
    server.connections.sweep()
    assert all(wire.closed for wire in wires)


def test_one_too_many() -> None:
    """
    A resting connection makes room for a new one.

    When all connections are busy, the new one is answered 503 and closed.
    """
    server = Server(connections=2)
    # So that the plan cache knows the request.
    ask(server, NEXT).lose()
    server.store.held = True
    first, second = ask(server, CURRENT), ask(server, NEXT)
    third = ask(server, NEXT)
    assert (first.closed, third.closed) == (True, False)
    fourth = server.connect()
    assert statuses(fourth) == [503]
    assert fourth.closed
    latest = server.committer.latest
    fourth.protocol.data_received(NEXT)
    assert server.committer.latest == latest
    assert not second.closed


def test_retired(server: Server) -> None:
    """
    When the worker stops, every answer says that it is the connection's last.
    """
    server.connections.closing = True
    server.shared.plans.close()
    for _ in range(2):
        assert b"Connection: close" in ask(server, NEXT).received
    assert server.shared.requests.planned() == 0


def test_parting(server: Server) -> None:
    """
    A step that the plan cache knew ends its connection when resting connections are closed.
    """
    server.store.held = True
    wire = ask(server, NEXT)
    server.connections.close_idle(unused=False)
    assert not wire.closed
    server.store.finish()
    assert wire.closed


def test_the_rate_of_one_client() -> None:
    """
    The rate limit holds with the plan cache as without it, for each address on its own.

    The allowance of an address grows again.
    """
    server = Server(rate=5)
    one, other = (IPv4Address("TCP", host, 1) for host in ("10.0.0.1", "10.0.0.2"))
    for peer in (one, other):
        wire = server.connect(peer)
        for _ in range(7):
            wire.send(CURRENT)
            wire.turns()
        assert statuses(wire) == [200] * 5 + [429] * 2
        assert b"Retry-After: 1\r\n" in wire.received
    server.clock.rightNow += 0.2
    assert statuses(ask(server, NEXT, peer=one)) == [200]
    assert statuses(ask(server, NEXT, peer=one)) == [429]
    assert server.committer.durable.revision == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /current HTTP/1.1\r\n\r\n", 400),
        (b"GET /current HTTP/1.1\r\nHost: h\r\na: b\0c\r\n\r\n", 400),
        (NEXT[:-2] + b"Content-Length: 70000\r\n\r\n", 413),
        (b"GET /" + b"x" * 17_000, 414),
        (CURRENT[:-2] + b"a:b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_malformed_requests_count(sent: bytes, status: int) -> None:
    """
    A malformed request counts once against its client's rate, and is answered 429 over it.
    """
    server = Server(rate=3)
    one = IPv4Address("TCP", "10.0.0.1", 1)
    found = [statuses(ask(server, sent, peer=one)) for _ in range(4)]
    assert found == [[status]] * 3 + [[429]]
    assert statuses(ask(server, CURRENT, peer=one)) == [429]
    server.clock.rightNow += 1
    found = [statuses(ask(server, CURRENT, peer=one)) for _ in range(2)]
    assert [*found, statuses(ask(server, sent, peer=one))] == [[200], [200], [status]]
    assert statuses(ask(server, CURRENT, peer=one)) == [429]


def test_malformed_requests_behind_a_proxy() -> None:
    """
    Malformed requests count against the client that the proxy names.
    """
    server = Server(rate=1)
    found = []
    for host in (b"10.0.0.1", b"10.0.0.1", b"10.0.0.2"):
        head = b"GET / HTTP/1.1\r\nX-Forwarded-For: " + host + b"\r\n\r\n"
        found += statuses(ask(server, head, peer=UNIXAddress(None)))
    assert found == [400, 429, 400]


def test_a_page_may_read_early_refusals() -> None:
    """
    A page of a named origin may read the answers to malformed requests, as any other.
    """
    origin = "https://a.example"
    server = Server(access=Access(origins=[origin]))
    head = f"GET / HTTP/1.1\r\nOrigin: {origin}\r\n".encode()
    for sent in (head + b"\r\n", head + b"a:b\r\n" * 101 + b"\r\n"):
        received = ask(server, sent).received
        assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in received
        assert b"\r\nVary: Origin\r\n" in received
        assert b"Cross-Origin-Resource-Policy" not in received


def test_a_refusal_behind_a_head_request() -> None:
    """
    The answer to a malformed request has a body, also after a HEAD request.

    The answer to a HEAD request that is refused itself has none.
    """
    server = Server()
    head = CURRENT.replace(b"GET", b"HEAD")
    received = ask(server, head, b"nonsense\r\n\r\n").received
    assert received.endswith(
        b"malformed request line; send a method, a path and the HTTP version\n"
    )
    received = ask(server, head.replace(b"Host: h\r\n", b"")).received
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"\r\n\r\n")


def test_the_rate_behind_a_proxy() -> None:
    """
    Through a Unix socket, the rate limit counts the client that the proxy names.

    This holds also for requests that the plan cache knows.
    """
    server = Server(rate=1)
    for peer, expected in (
        (UNIXAddress(None), 200),
        (IPv4Address("TCP", "1.1.1.1", 1), 429),
    ):
        statuses_ = []
        for host in (b"10.0.0.1", b"10.0.0.2"):
            request = CURRENT[:-2] + b"X-Forwarded-For: " + host + b"\r\n\r\n"
            statuses_ += statuses(ask(server, request, peer=peer))
        assert statuses_ == [200, expected]


def test_tls_handshake_is_refused_at_its_first_byte(server: Server) -> None:
    """
    A client that speaks TLS to a plain listener need not wait until its time is over.
    """
    wire = ask(server, b"\x16")
    assert statuses(wire) == [400]
    assert b"this is a TLS handshake; use http:// here, not https://" in wire.received
    assert wire.closed


def test_input_is_dropped_after_a_refusal(server: Server) -> None:
    """
    Nothing that follows a refused head is parsed or kept.
    """
    wire = ask(server, b"nonsense\r\n\r\n" + b"\r\n" * 100_000)
    for _ in range(3):
        wire.protocol.data_received(NEXT * 100)
    wire.turns()
    assert statuses(wire) == [400]
    assert wire.protocol._buffer == b""
    assert server.committer.durable.revision == 1


def test_connections_share_the_time_for_parsing(server: Server) -> None:
    """
    When the budget of a turn is used up, each connection gets a piece of later turns.

    A request that is found by its bytes does not wait, and another one waits for a turn or
    two, however many connections have sent bodies in tiny chunks.
    """
    ask(server, CURRENT)
    body = NEXT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 900
    busy = [server.connect() for _ in range(50)]
    server.shared.parsing.spend(1.0)
    for wire in busy:
        wire.send(body)
    assert all(wire.received == b"" for wire in busy)
    assert all(wire.protocol._waits_for_budget for wire in busy)
    known, new = server.connect(), server.connect()
    known.send(CURRENT)
    assert statuses(known) == [200]
    new.send(CURRENT[:-2] + b"X-Request-ID: 1\r\n\r\n")
    assert statuses(new) == [200]
    # More input waits in the kernel, so that nothing piles up here.
    busy[0].send(b"1\r\nx\r\n")
    assert not busy[0].transport.is_reading()
    for wire in busy[1:]:
        wire.send(b"0\r\n\r\n")
    server.turns()
    for wire in busy:
        wire.turns()
    assert [statuses(wire) for wire in busy[1:]] == [[200]] * 49
    busy[0].send(b"0\r\n\r\n")
    # The batch waits for as many steps as shared the last one, but not for long.
    server.clock.turn(1)
    busy[0].turns()
    assert statuses(busy[0]) == [200]


def test_client_that_leaves_while_it_waits_for_the_budget_is_forgotten(
    server: Server,
) -> None:
    """
    Its place in the queue does nothing.
    """
    server.shared.parsing.spend(1.0)
    wires = [server.connect() for _ in range(3)]
    for wire in wires:
        wire.send(NEXT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    wires[0].lose()
    wires[1].half_close()
    server.turns()
    assert wires[1].closed
    wires[2].send(b"0\r\n\r\n")
    wires[2].turns()
    assert [statuses(wire) for wire in wires] == [[], [], [200]]


def test_body_of_two_bytes_costs_a_step_no_handler(server: Server) -> None:
    """
    A request with a body has the plan of one without.
    """
    asked = server.shared.requests.asked
    step = NEXT[:-2] + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    wire = ask(server, *[step] * 4, step[:-1], step[-1:])
    assert statuses(wire) == [200] * 5
    assert server.shared.requests.asked == asked


def test_stream_is_chunked_in_http_1_1_and_ends_its_connection(server: Server) -> None:
    """
    To HTTP/1.0 its end is that of the connection.
    """
    for version, chunked in ((b"1.1", True), (b"1.0", False)):
        wire = ask(server, b"GET /events HTTP/%b\r\nHost: h\r\n\r\n" % version)
        assert (b"Transfer-Encoding: chunked" in wire.received) == chunked
        assert b"Connection: close" in wire.received
        wire.half_close()
        assert wire.received.endswith(b"0\r\n\r\n") == chunked
        assert wire.closed
    assert len(server.events) == 0
