"""
Tests of Server-Sent Events over connections, with a fake clock.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from twisted.internet.address import IPv4Address

from pexservice.commit.interface import Step
from pexservice.core.cursor import Transition, state_at
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.server.limits import KEEP_ALIVE_TIMEOUT_SECONDS, STALL_TIMEOUT_SECONDS
from pexservice.web.events import (
    EVENT_INTERVAL_SECONDS,
    HEARTBEAT_INTERVALS,
    MAX_DIGITS,
    event,
)
from tests.support.steps import submit
from tests.support.wire import Server, Wire

NEXT = Step(Transition.NEXT)


@pytest.fixture
def server() -> Server:
    return Server()


def watch(
    server: Server,
    *headers: str,
    version: str = "1.1",
    path: str = "/events",
    address: str = "192.0.2.1",
) -> Wire:
    """
    Return a client that has requested the events.
    """
    wire = server.connect(IPv4Address("TCP", address, 50_000))
    lines = (f"GET {path} HTTP/{version}", "Host: h", *headers, "", "")
    wire.send("\r\n".join(lines).encode())
    return wire


def step(server: Server, times: int = 1) -> None:
    """
    Move the cursor up C{times} times, each time in its own batch.
    """
    for _ in range(times):
        submit(server.committer, NEXT)
        server.turns(10)


def look(server: Server, times: int = 1) -> None:
    """
    Let the time between two events pass.
    """
    for _ in range(times):
        server.clock.turn(EVENT_INTERVAL_SECONDS)


def revisions(wire: Wire) -> list[int]:
    """
    Return the revisions of the events that have arrived.
    """
    return [int(revision) for revision in re.findall(rb"(?m)^id: (\d+)$", wire.received)]


def data(received: bytes) -> Any:
    """
    Return the data of the last event.
    """
    return json.loads(re.findall(rb"(?m)^data: (.*)$", received)[-1])


def test_stream_begins_with_the_present_state(server: Server) -> None:
    """
    The state is in JSON, with the revision as id.
    """
    step(server, 10)
    wire = watch(server)
    head, _, body = wire.received.partition(b"\r\n\r\n")
    assert head.splitlines() == [
        b"HTTP/1.1 200 OK",
        b"Connection: close",
        b"X-Content-Type-Options: nosniff",
        b"Cross-Origin-Resource-Policy: same-origin",
        b"Content-Type: text/event-stream",
        b"Cache-Control: no-store",
        b"X-Accel-Buffering: no",
        b"Transfer-Encoding: chunked",
    ]
    assert b"retry: 500\n\nid: 10\ndata: " in body
    assert body.endswith(b"}\n\n\r\n")
    assert (data(body)["current"], data(body)["revision"]) == ("55", 10)


def test_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection(
    server: Server,
) -> None:
    """
    A client that closes its half has gone, and frees its place at once.
    """
    wire = watch(server, "Last-Event-ID: 0", version="1.0")
    assert b"Transfer-Encoding" not in wire.received
    assert wire.received.endswith(b"\r\n\r\nretry: 500\n\n")
    step(server)
    look(server)
    received = wire.received.partition(b"retry: 500\n\n")[2]
    assert received.startswith(b'id: 1\ndata: {"position":1,')
    assert received.endswith(b"}\n\n")
    wire.half_close()
    assert (wire.closed, len(server.events)) == (True, 0)


def test_steps_of_a_tenth_of_a_second_share_an_event(server: Server) -> None:
    """
    It has the newest state. No event is sent while the cursor rests.
    """
    wire = watch(server)
    for _ in range(5):
        step(server, 3)
        look(server)
    look(server, 5)
    assert revisions(wire) == [0, 3, 6, 9, 12, 15]


def test_client_between_two_comparisons_gets_no_event_early(
    server: Server,
) -> None:
    """
    Its second event comes with that of the other clients.
    """
    watch(server)
    server.clock.turn(EVENT_INTERVAL_SECONDS / 2)
    late = watch(server)
    step(server)
    server.clock.turn(EVENT_INTERVAL_SECONDS * 0.6)
    assert revisions(late) == [0]
    look(server)
    assert revisions(late) == [0, 1]


@pytest.mark.parametrize(
    ("last", "expected"), [("2", []), ("1", [2]), ("3", [2]), ("x", [2]), ("", [2])]
)
def test_client_that_knows_the_present_state_does_not_get_it_again(
    server: Server, last: str, expected: list[int]
) -> None:
    """
    Any other C{Last-Event-ID} is ignored.
    """
    step(server, 2)
    wire = watch(server, f"Last-Event-ID: {last}")
    assert revisions(wire) == expected
    step(server)
    look(server)
    assert revisions(wire) == [*expected, 3]


def test_value_of_more_than_1000_digits_is_shown_by_its_ends_and_its_digit_count() -> None:
    assert len(data(event(state_at(7, 4786)))["current"]) == MAX_DIGITS
    state = state_at(7, 4787)
    text = state.term.text.decode()
    assert data(event(state)) == {
        "position": 4787,
        "digits": len(text),
        "first": text[:32],
        "last": text[-32:],
        "revision": 7,
    }


def test_heartbeat_is_sent_every_15_seconds_whether_or_not_the_cursor_moves(
    server: Server,
) -> None:
    """
    A heartbeat has its own event type and the state, but no id.
    """
    wire = watch(server)
    heartbeat = b"\r\nevent: heartbeat\ndata: {"
    look(server, HEARTBEAT_INTERVALS - 1)
    assert heartbeat not in wire.received
    look(server)
    assert wire.received.count(heartbeat) == 1
    assert data(wire.received.partition(b"event: heartbeat\n")[2])["revision"] == 0
    assert revisions(wire) == [0]
    step(server)
    look(server, HEARTBEAT_INTERVALS)
    assert wire.received.count(heartbeat) == 2
    assert revisions(wire) == [0, 1]


def test_client_that_does_not_read_gets_only_the_newest_state_later(server: Server) -> None:
    """
    While the client does not read, nothing is written for it.
    """
    other, wire = watch(server), watch(server)
    wire.protocol.pause_writing()
    for _ in range(HEARTBEAT_INTERVALS * 2):
        step(server)
        look(server)
    assert revisions(wire) == [0]
    assert len(revisions(other)) == HEARTBEAT_INTERVALS * 2 + 1
    wire.protocol.resume_writing()
    look(server)
    assert revisions(wire) == [0, HEARTBEAT_INTERVALS * 2]


def test_stream_is_never_idle_but_ends_if_its_client_reads_nothing(server: Server) -> None:
    healthy, stalled = watch(server), watch(server)
    stalled.protocol.pause_writing()
    # The first sweep notes how much the client has read; a later one, that it read nothing.
    server.connections.sweep()
    server.clock.rightNow += STALL_TIMEOUT_SECONDS + KEEP_ALIVE_TIMEOUT_SECONDS
    server.connections.sweep()
    assert (healthy.closed, stalled.transport.aborted) == (False, True)


def workers(wire: Wire) -> list[Any]:
    """
    Return the data of the events about the workers.
    """
    bodies = re.findall(rb"(?m)^event: workers\ndata: (.*)$", wire.received)
    return [json.loads(body) for body in bodies]


def test_events_about_workers_are_sent_only_on_request(server: Server) -> None:
    """
    They name the active worker and the previous one, at once and at each change.
    """
    server.report = SupervisorReport(
        0, 1, 1, active_worker="worker-1", active_since_ms=1_795_000_000_007
    )
    wire, other = watch(server, path="/events?workers"), watch(server)
    first: dict[str, object] = {"serving": "worker-1", "before": None, "pause": 0}
    first |= {"standing_by": 1, "standby": 1, "takeovers": 0}
    first["since"] = "2026-11-18T11:06:40.007Z"
    assert workers(wire) == [first]
    assert revisions(wire) == [0]
    look(server, 3)
    assert workers(wire) == [first]
    server.report = SupervisorReport(
        *(1, 0, 1),
        active_worker="worker-2",
        previous_worker="worker-1",
        active_since_ms=0,
        takeover_us=12_345,
    )
    look(server, 2)
    changed = {"serving": "worker-2", "before": "worker-1", "pause": 0.012345}
    assert workers(wire)[1:] == [
        {**first, **changed, "since": "1970-01-01T00:00:00.000Z"}
        | {"standing_by": 0, "takeovers": 1}
    ]
    assert workers(other) == []
    assert revisions(wire) == revisions(other) == [0]


def test_no_event_about_workers_is_sent_without_a_supervisor(server: Server) -> None:
    wire = watch(server, path="/events?workers")
    look(server, 2)
    assert (workers(wire), revisions(wire)) == ([], [0])


def test_one_timer_serves_all_streams_and_stops_with_the_last(server: Server) -> None:
    before = len(server.clock.calls)
    wires = [watch(server) for _ in range(3)]
    server.turns(1)
    assert len(server.clock.calls) == before + 1
    for wire in wires:
        wire.lose()
    look(server, 2)
    assert (len(server.events), len(server.clock.calls)) == (0, before)
    assert revisions(watch(server)) == [0]
    server.turns(1)
    assert len(server.clock.calls) == before + 1


def test_stream_beyond_the_limit_gets_503_until_another_ends() -> None:
    server = Server(streams=2)
    first, _ = watch(server), watch(server)
    refused = watch(server)
    assert b"Retry-After: 10\r\n" in refused.received
    assert refused.received.endswith(
        b"stream limit reached: 2 clients watch the cursor; try again, or read /current\n"
    )
    assert not refused.closed
    first.lose()
    assert revisions(watch(server)) == [0]


def test_address_with_the_most_streams_loses_its_oldest_to_another() -> None:
    """
    A client with as many streams as the others gets no more.
    """
    server = Server(streams=4)
    greedy = [watch(server, address="192.0.2.1") for _ in range(4)]
    assert watch(server, address="192.0.2.1").statuses == [503]
    first = watch(server, address="192.0.2.2")
    assert [wire.closed for wire in greedy] == [True, False, False, False]
    assert greedy[0].received.endswith(b"0\r\n\r\n")
    second = watch(server, address="192.0.2.2")
    assert [wire.closed for wire in greedy] == [True, True, False, False]
    assert watch(server, address="192.0.2.2").statuses == [503]
    assert watch(server, address="192.0.2.1").statuses == [503]
    step(server)
    look(server, 2)
    assert [revisions(wire) for wire in (*greedy[2:], first, second)] == [[0, 1]] * 4
    assert len(server.events) == 4


@pytest.mark.parametrize(
    ("forwarded", "ended"), [([], []), (["X-Forwarded-For: 198.51.100.1"], [0])]
)
def test_stream_through_a_proxy_counts_for_the_client_that_the_proxy_names(
    forwarded: list[str], ended: list[int]
) -> None:
    """
    A proxy that names no client stands for many clients, so its streams are not ended.
    """
    server = Server(streams=2, proxies=("192.0.2.9",))
    streams = [watch(server, *forwarded, address="192.0.2.9") for _ in range(2)]
    assert (watch(server, address="192.0.2.2").statuses == [503]) is (not ended)
    assert [n for n, stream in enumerate(streams) if stream.closed] == ended


def test_stream_that_is_not_read_makes_room_at_once() -> None:
    """
    The oldest stream of a client may be one that the client does not read.
    """
    server = Server(streams=2)
    stalled = watch(server)
    stalled.protocol.pause_writing()
    watch(server)
    other = watch(server, address="192.0.2.2")
    assert stalled.transport.aborted
    assert revisions(other) == [0]
    assert len(server.events) == 2


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_streams_and_their_connections_end_when_the_worker_stops(
    server: Server, version: str
) -> None:
    """
    A client that connects later gets one event, and should reconnect.
    """
    wire = watch(server, "Connection: keep-alive", version=version)
    assert not wire.closed
    server.connections.is_draining = True
    server.events.close()
    assert wire.closed
    late = watch(server, version=version)
    assert (revisions(late), late.closed) == ([0], True)
    for stream in (wire, late):
        assert stream.received.endswith(b"0\r\n\r\n") is (version == "1.1")
        assert stream.received.count(b"Connection: close\r\n") == 1
    assert len(server.events) == 0


def test_requests_behind_a_stream_are_never_answered(server: Server) -> None:
    """
    A stream is the last response of its connection.
    """
    wire = server.connect()
    ask = b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n"
    wire.send(ask + b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n")
    look(server, 3)
    server.events.close()
    server.turns()
    assert wire.received.count(b"HTTP/1.1 ") == 1
    assert server.committer.durable.revision == 0


def test_stream_on_an_unopened_store_gets_503(server: Server) -> None:
    server.committer.refuse_all("the store is not there")
    wire = watch(server)
    assert wire.statuses == [503]
    assert b"the store is not there; nothing was moved" in wire.received
    refusal = server.committer.read_refusal
    # A refusal that is raised for each request would collect their tracebacks.
    assert refusal is not None
    assert refusal.__traceback__ is None
