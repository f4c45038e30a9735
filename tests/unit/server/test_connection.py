"""
Tests of connections: pipelined requests, half-close, time limits, rates and refusals.
"""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from pexservice.server import connection
from pexservice.server.limits import (
    KEEP_ALIVE_TIMEOUT_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    STALL_TIMEOUT_SECONDS,
    Phase,
)
from pexservice.stores.errors import Refusal
from pexservice.web.access import Access
from tests.support.wire import Server

NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"
CURRENT = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def server() -> Server:
    """
    Return a server that has a plan for each of the two requests.
    """
    new_server = Server()
    for request in (NEXT, CURRENT):
        new_server.ask(request)
    assert len(new_server.shared.request_cache.plans) == 2
    return new_server


def test_requests_that_arrive_during_a_step_wait_for_its_response(server: Server) -> None:
    """
    The connection is not read meanwhile.
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
    assert wire.statuses == [200, 200, 200]
    assert [b"Pex-Revision: %d" % n in wire.received for n in (1, 2, 3, 4)] == [
        *(False, True, True, False)
    ]


def test_pipeline_is_not_read_faster_than_its_requests_are_answered(
    server: Server,
) -> None:
    """
    Otherwise a client could fill the memory, because each response lets more bytes arrive.
    """
    wire = server.connect()
    pieces = [CURRENT * 20] * 20
    wire.send(*pieces)
    most_bytes = 0
    for _ in range(500):
        wire.turns(1)
        most_bytes = max(most_bytes, len(wire.protocol._buffer))
    assert wire.statuses == [200] * 400
    assert most_bytes <= 2 * len(pieces[0])


@pytest.mark.parametrize("request_", [NEXT, CURRENT])
def test_a_client_that_does_not_read_is_not_read_from(
    server: Server, request_: bytes
) -> None:
    """
    If a client takes no responses, no more of its requests are read until it takes them.
    """
    wire = server.connect()
    wire.protocol.pause_writing()
    wire.send(request_, request_)
    wire.turns()
    assert wire.received == b""
    assert wire.protocol.stalled_since
    wire.protocol.resume_writing()
    wire.turns()
    assert wire.statuses == [200, 200]
    assert not wire.protocol.stalled_since


def test_client_that_takes_only_a_part_of_the_last_response_is_cut_off(
    server: Server,
) -> None:
    """
    The event loop calls C{resume_writing} when few bytes are left, also while it closes.
    """
    wire = server.ask(b"GET /current HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    wire.protocol.resume_writing()
    for _ in range(2):
        server.connections.sweep()
        server.clock.turn(STALL_TIMEOUT_SECONDS + 1)
    server.connections.sweep()
    assert wire.transport.aborted


def test_client_that_half_closes_during_a_step_gets_the_response(server: Server) -> None:
    server.store.held = True
    wire = server.ask(NEXT)
    wire.half_close()
    assert not wire.closed
    server.store.finish()
    assert wire.statuses == [200]
    assert wire.closed


def test_step_of_a_client_that_left_is_made(server: Server) -> None:
    """
    No response is sent.
    """
    server.store.held = True
    wire = server.ask(NEXT, CURRENT)
    wire.lose()
    server.store.finish()
    server.turns()
    assert wire.received == b""
    assert server.committer.durable.revision == 2
    assert len(server.connections) == 2
    # The two requests of the fixture have responses.
    assert sum(count for *_, count in server.shared.counters.responses()) == 2


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        # Old browsers send an empty line behind each request.
        ([CURRENT, b"\r\n", CURRENT, b"\r\n", CURRENT], [200, 200, 200]),
        ([b"\r\n" + CURRENT, b"\r\n", b"\r\n" + CURRENT], [200, 400]),
        ([CURRENT, b"\r\n", b"\r\n", CURRENT], [200, 400]),
        ([CURRENT + b"\r\n", CURRENT + b"\r\n", CURRENT], [200, 200, 200]),
    ],
)
def test_one_empty_line_before_a_request_is_ignored(
    server: Server, chunks: list[bytes], expected: list[int]
) -> None:
    wire = server.connect()
    for chunk in chunks:
        wire.send(chunk)
        wire.turns()
    assert wire.statuses == expected


@pytest.mark.parametrize(
    "sent", [b"\r\n", NEXT[:20], NEXT[:-2] + b"Content-Length: 99\r\n\r\n" + b"x" * 20]
)
def test_late_request_gets_408_when_its_time_is_over(server: Server, sent: bytes) -> None:
    wire = server.connect()
    wire.send(sent[:-20])
    last_bytes = sent[-20:]
    for byte in last_bytes:
        wire.send(bytes([byte]))
        server.connections.sweep()
        assert wire.received == b""
        server.clock.rightNow += REQUEST_TIMEOUT_SECONDS / len(last_bytes)
    server.clock.rightNow += 1
    server.connections.sweep()
    assert wire.statuses == [408]
    assert wire.closed


def test_idle_connection_is_closed_and_each_request_restarts_its_time(
    server: Server,
) -> None:
    """
    The request may have a plan or not, and a step may be refused.
    """
    requests = [CURRENT, NEXT, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", NEXT]
    wires = [server.ask(CURRENT) for _ in requests]
    server.clock.rightNow += KEEP_ALIVE_TIMEOUT_SECONDS - 1
    for wire, request in zip(wires, requests, strict=True):
        # Only the last request is refused.
        server.store.failure = Refusal("full") if wire is wires[-1] else None
        wire.send(request)
        wire.turns()
    assert wires[-1].statuses == [200, 503]
    server.clock.rightNow += KEEP_ALIVE_TIMEOUT_SECONDS - 1
    server.connections.sweep()
    assert not any(wire.closed for wire in wires)
    server.clock.rightNow += 2
    server.connections.sweep()
    assert all(wire.closed for wire in wires)


def test_idle_connection_makes_room_and_busy_ones_cause_503() -> None:
    server = Server(connections=2)
    # So that the plan cache knows the request.
    server.ask(NEXT).lose()
    server.store.held = True
    first, second = server.ask(CURRENT), server.ask(NEXT)
    third = server.ask(NEXT)
    assert (first.closed, third.closed) == (True, False)
    fourth = server.connect()
    assert fourth.statuses == [503]
    assert fourth.closed
    assert counted(server)["other", "other", 503] == 1
    assert (server.connections.accepted, server.connections.refused) == (4, 1)
    latest = server.committer._latest
    fourth.protocol.data_received(NEXT)
    assert server.committer._latest == latest
    assert not second.closed


def test_step_with_a_known_plan_closes_its_connection_during_a_drain(
    server: Server,
) -> None:
    server.store.held = True
    wire = server.ask(NEXT)
    server.connections.close_idle()
    assert not wire.closed
    server.store.finish()
    assert wire.closed


def test_rate_limit_counts_each_address_with_and_without_a_plan() -> None:
    """
    After a fifth of a second, a client may send another request.
    """
    server = Server(rate=5)
    peer_of_one_client, other = (
        IPv4Address("TCP", host, 1) for host in ("10.0.0.1", "10.0.0.2")
    )
    for peer in (peer_of_one_client, other):
        wire = server.connect(peer)
        for _ in range(7):
            wire.send(CURRENT)
            wire.turns()
        assert wire.statuses == [200] * 5 + [429] * 2
        assert b"Retry-After: 1\r\n" in wire.received
    server.clock.rightNow += 0.2
    assert server.ask(NEXT, peer=peer_of_one_client).statuses == [200]
    assert server.ask(NEXT, peer=peer_of_one_client).statuses == [429]
    assert server.committer.durable.revision == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (NEXT[:-2] + b"Content-Length: 70000\r\n\r\n", 413),
        (b"GET /" + b"x" * 17_000, 414),
        (CURRENT[:-2] + b"a:b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_malformed_request_counts_once_for_the_rate_limit(sent: bytes, status: int) -> None:
    """
    Above the limit, the client gets 429 instead.
    """
    server = Server(rate=3)
    peer = IPv4Address("TCP", "10.0.0.1", 1)

    def ask(*requests: bytes) -> list[list[int]]:
        return [server.ask(request, peer=peer).statuses for request in requests]

    assert ask(*[sent] * 4, CURRENT) == [[status]] * 3 + [[429]] * 2
    server.clock.rightNow += 1
    assert ask(CURRENT, CURRENT, sent, CURRENT) == [[200], [200], [status], [429]]


def test_page_of_a_named_origin_may_read_early_refusals() -> None:
    origin = "https://a.example"
    server = Server(access=Access(origins=[origin]))
    head = f"GET / HTTP/1.1\r\nOrigin: {origin}\r\n".encode()
    for sent in (head + b"\r\n", head + b"a:b\r\n" * 101 + b"\r\n"):
        received = server.ask(sent).received
        assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        assert b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in received
        assert b"\r\nVary: Origin\r\n" in received
        assert b"Cross-Origin-Resource-Policy" not in received


def test_refusal_after_a_head_request_has_a_body() -> None:
    """
    The refusal of the HEAD request itself has no body.
    """
    server = Server()
    head = CURRENT.replace(b"GET", b"HEAD")
    received = server.ask(head, b"nonsense\r\n\r\n").received
    assert received.endswith(
        b"malformed request line; send a method, a path and HTTP/1.1\n"
    )
    received = server.ask(head.replace(b"Host: h\r\n", b"")).received
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("head", "status"), [(CURRENT, 200), (b"GET /\r\n\r\n", 400)])
def test_rate_limit_counts_the_client_that_a_proxy_on_a_unix_socket_names(
    head: bytes, status: int
) -> None:
    """
    Malformed requests count too.
    """
    server = Server(rate=1)
    seen_statuses = []
    for host in (b"10.0.0.1", b"10.0.0.1", b"10.0.0.2"):
        request = head[:-2] + b"X-Forwarded-For: " + host + b"\r\n\r\n"
        seen_statuses += server.ask(request, peer=UNIXAddress(None)).statuses
    assert seen_statuses == [status, 429, status]


def test_tls_handshake_is_refused_at_its_first_byte(server: Server) -> None:
    """
    A client that speaks TLS to a plain listener need not wait for a timeout.
    """
    wire = server.ask(b"\x16")
    assert wire.statuses == [400]
    assert b"this is a TLS handshake; use http:// here, not https://" in wire.received
    assert wire.closed


def test_input_behind_a_refused_head_is_neither_parsed_nor_kept(server: Server) -> None:
    wire = server.ask(b"nonsense\r\n\r\n" + b"\r\n" * 100_000)
    for _ in range(3):
        wire.protocol.data_received(NEXT * 100)
    wire.turns()
    assert wire.statuses == [400]
    assert wire.protocol._buffer == b""
    assert server.committer.durable.revision == 1


def test_bug_in_the_parser_ends_the_connection_after_one_try(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The event loop reports the end of an aborted connection only in a later iteration.
    """
    heads = []

    def read(head: bytes) -> None:
        heads.append(head)
        if len(heads) > 1:
            # Without this, a connection that tries again would do it for ever.
            wire.lose()
        raise ZeroDivisionError

    monkeypatch.setattr(server.shared.reader, "read", read)
    wire = server.connect()
    wire.send(NEXT[:-2] + b"X-Request-ID: 1\r\n\r\n")
    assert len(heads) == 1
    assert wire.transport.aborted
    wire.protocol.data_received(NEXT)
    assert wire.received == b""
    assert server.committer._latest.revision == 1


def test_bug_in_a_problem_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No timeout applies to a request that is being performed.
    """
    monkeypatch.setattr(connection, "problem_of", lambda _: 1 // 0)
    server.store.held = True
    wire = server.ask(NEXT)
    server.store.finish(Refusal("the disk is full"))
    wire.turns()
    assert wire.transport.aborted
    assert wire.received == b""


def test_connections_share_the_parsing_time_of_a_turn(server: Server) -> None:
    """
    When the budget of a turn is used up, each connection gets a piece of later turns.

    A request that is found by its bytes does not wait, and another one waits for a turn or
    two, however many connections have sent bodies in tiny chunks.
    """
    server.ask(CURRENT)
    body = NEXT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 900
    busy = [server.connect() for _ in range(50)]
    server.shared.parsing_budget.spend(1.0)
    for wire in busy:
        wire.send(body)
    assert all(wire.received == b"" for wire in busy)
    assert all(wire.protocol.phase is Phase.WAITING_TO_PARSE for wire in busy)
    known, new = server.connect(), server.connect()
    known.send(CURRENT)
    assert known.statuses == [200]
    new.send(CURRENT[:-2] + b"X-Request-ID: 1\r\n\r\n")
    assert new.statuses == [200]
    # More input waits in the kernel, so that nothing piles up here.
    busy[0].send(b"1\r\nx\r\n")
    assert not busy[0].transport.is_reading()
    for wire in busy[1:]:
        wire.send(b"0\r\n\r\n")
    server.turns()
    for wire in busy:
        wire.turns()
    assert [wire.statuses for wire in busy[1:]] == [[200]] * 49
    busy[0].send(b"0\r\n\r\n")
    # The batch waits for as many steps as shared the last one, but not for long.
    server.clock.turn(1)
    busy[0].turns()
    assert busy[0].statuses == [200]


def test_client_that_leaves_while_it_waits_for_the_budget_is_forgotten(
    server: Server,
) -> None:
    """
    The call that waits in the queue then does nothing.
    """
    server.shared.parsing_budget.spend(1.0)
    wires = [server.connect() for _ in range(3)]
    for wire in wires:
        wire.send(NEXT[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    wires[0].lose()
    wires[1].half_close()
    server.turns()
    assert wires[1].closed
    wires[2].send(b"0\r\n\r\n")
    wires[2].turns()
    assert [wire.statuses for wire in wires] == [[], [], [200]]


def counted(server: Server) -> dict[tuple[str, str, int], int]:
    """
    Return how many requests got a response, by endpoint, method and status.
    """
    return {
        (endpoint, method, status): count
        for endpoint, method, status, count in server.shared.counters.responses()
        if count
    }


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("failure", [Refusal("full"), LookupError("a bug")])
def test_failed_step_counts_under_its_status(
    failure: Exception, *, remembers: bool
) -> None:
    server = Server(remembers=remembers)
    server.store.failure = failure
    for _ in range(2):
        server.ask(NEXT)
    assert counted(server) == {("/next", "POST", 503): 2}


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", ("other", "GET", 404)),
        (b"BREW /current HTTP/1.1\r\nHost: h\r\n\r\n", ("/current", "other", 405)),
        (b"HEAD /next?x HTTP/1.1\r\nHost: h\r\n\r\n", ("/next", "HEAD", 405)),
        (b"GET http://h/current HTTP/1.1\r\nHost: h\r\n\r\n", ("/current", "GET", 200)),
        (b"nonsense\r\n\r\n", ("other", "other", 400)),
    ],
)
def test_made_up_paths_and_methods_count_as_one(
    request_: bytes, key: tuple[str, str, int]
) -> None:
    """
    All paths or methods that do not exist are counted as one.

    Otherwise, clients could fill the memory.
    """
    server = Server()
    server.ask(request_)
    assert counted(server) == {key: 1}
