"""
Fuzz tests: any bytes at all, sent to the code that reads a connection.

Attacks of L{tests.labs.attacks.lab} are torn, mixed, cut and repeated, on connections
without a network.  Whatever is sent, nothing is raised and nothing is logged, every answer
is HTTP, and the cursor has made the steps that the responses report.  The same bytes are
sent to a server without the plan cache, and the same answers must come back.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs

from pexservice.server.limits import KEEP_ALIVE_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS
from tests.labs.attacks.attacking import check_revisions, parse_responses
from tests.labs.attacks.lab import TABLE
from tests.support.forms import amount
from tests.support.wire import Server

#: Without HEAD, whose answers have no body, which a reader has to know; and without
#: streams, whose answers have no end.
SEEDS = st.sampled_from(
    [
        exchange.sent
        for exchange in TABLE
        if 0 < len(exchange.sent) < 2048
        and b"HEAD" not in exchange.sent
        and b"/events" not in exchange.sent
    ]
)

#: The requests that clients send most, so that many are found in the plan cache.
USUAL = st.sampled_from(
    [
        f"{method} {path} {version}\r\nHost: h\r\n{header}\r\n".encode()
        for method in ("GET", "POST")
        for path in ("/current", "/next", "/previous", "/reset")
        for version in ("HTTP/1.1", "HTTP/1.0")
        for header in ("", "Connection: keep-alive\r\n", "Accept: */*\r\n")
    ]
)

#: Bytes that parsers stumble over.
BITS = st.sampled_from(
    [
        *(b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b","),
        *(b"%00", b"/", b"?", b"0\r\n\r\n", b"5\r\n12345\r\n", b"\xff", b"-", b"0x"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n"),
        *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b" folded\r\n"),
        *(b"POST /next HTTP/1.1\r\n", b"HTTP/1.0", b"HTTP/1.1", b"9" * 30),
    ]
)


@st.composite
def torn(draw: st.DrawFn) -> bytes:
    """
    Draw a request with some of its bytes replaced, taken out, put in, or doubled.
    """
    sent = draw(USUAL | SEEDS)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(sent)))
        end = draw(st.integers(start, min(len(sent), start + 20)))
        put = draw(
            st.sampled_from((b"", sent[start:end] * 2)) | BITS | st.binary(max_size=4)
        )
        sent = sent[:start] + put + sent[end:]
    return sent


@st.composite
def talks(draw: st.DrawFn) -> list[bytes]:
    """
    Draw the chunks that one client sends.
    """
    few = draw(st.lists(torn() | USUAL, min_size=1, max_size=4))
    sent = draw(st.lists(st.sampled_from(few), min_size=1, max_size=8))
    if draw(st.booleans()):
        return sent
    stream = b"".join(sent)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)]) if a < b]


def hold(server: Server, chunks: list[bytes], ending: str) -> tuple[bytes, bool]:
    """
    Send C{chunks} on a new connection.

    @return: what comes back, and whether the connection is closed.
    """
    wire = server.connect()
    for chunk in chunks:
        wire.send(chunk)
        wire.turns(3)
    wire.turns()
    if ending == "half":
        wire.end()
    elif ending == "silent":
        for seconds in (
            REQUEST_TIMEOUT_SECONDS,
            REQUEST_TIMEOUT_SECONDS,
            KEEP_ALIVE_TIMEOUT_SECONDS,
        ):
            server.clock.rightNow += seconds + 1
            server.connections.sweep()
            wire.turns()
        assert wire.closed
    result = wire.received, wire.closed
    wire.lose()
    server.turns()
    return result


@settings(
    max_examples=amount(short=80, long=1000),
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(
        st.tuples(talks(), st.sampled_from(("half", "silent", "gone"))),
        min_size=1,
        max_size=3,
    )
)
def test_random_input_never_fails_and_plans_change_no_response(
    held: list[tuple[list[bytes], str]],
) -> None:
    """
    Nothing is raised or logged, and no response is 500.

    Each step has a response, and the plans stay few.
    """
    with_cache, without = (Server(remembers=remembers) for remembers in (True, False))
    with capturedLogs() as events:
        for chunks, ending in held:
            before = with_cache.committer.durable.revision
            received, closed = hold(with_cache, chunks, ending)
            assert hold(without, chunks, ending) == (received, closed)
            if b"HEAD" not in b"".join(chunks):
                came = parse_responses(received)
                assert all(response.status < 500 for response in came)
                check_revisions(came, before, with_cache.committer.durable.revision)
        for server in (with_cache, without):
            wire = server.connect()
            wire.send(b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n")
            wire.turns()
            (response,) = parse_responses(wire.received)
            assert response.status == 200
            assert server.failures == []
    assert not [
        event
        for event in events
        if "log_failure" in event or event["log_level"] >= LogLevel.warn
    ]
    assert len(with_cache.connections) == 1
