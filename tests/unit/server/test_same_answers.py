"""
The plan cache changes nothing but the speed.

Generated conversations are held with the plan cache and without it, and the answers are
compared byte for byte except for the date.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pexservice.web.access import Access
from tests.support.forms import amount
from tests.support.wire import Server

PATHS = (
    *("/current", "/next", "/previous", "/reset", "/", "/history", "/readyz"),
    *("/next?x=1", "//next", "/next/", "/nowhere", "http://h/next", "/current?a#b"),
)
METHODS = ("GET", "POST", "HEAD", "PUT", "OPTIONS", "get", "BREW")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/1.1 ", "HTTP/2.0")
HEADERS = (
    *("Accept: */*", "Accept: text/plain", "Accept: application/json", "Accept: a/b;q=x"),
    *("Accept: application/problem+json", "Accept:", "X: " + "y" * 3000),
    *("Connection: close", "Connection: keep-alive", "Connection: Upgrade, Close"),
    *("Content-Length: 0", "Content-Length: 3", "Transfer-Encoding: chunked"),
    *("Expect: 100-continue", "Idempotency-Key: k", "Idempotency-Key: l"),
    *('If-Match: "1"', 'If-Match: "1", "2", "3", "4-json"', 'If-None-Match: "2"'),
    *("If-Match: *", "If-None-Match: nonsense", "Sec-Fetch-Site: cross-site"),
    *("Purpose: prefetch", "Origin: https://a.example", "Authorization: Bearer t"),
    *("Range: bytes=0-0", "Cookie: a=b", "X-Forwarded-For: 1.2.3.4", "Bad Name: 1"),
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
#: The same requests with one header that may count.
ALMOST_USUAL = st.builds(
    lambda usual, header: usual[:-2] + f"{header}\r\n\r\n".encode(),
    USUAL,
    st.sampled_from(HEADERS),
)
ANYTHING = st.builds(
    lambda method, path, version, hosts, headers, body: "\r\n".join(
        [f"{method} {path} {version}", *hosts, *headers, "", body]
    ).encode(),
    st.sampled_from(METHODS),
    st.sampled_from(PATHS),
    st.sampled_from(VERSIONS),
    st.sampled_from([["Host: h"]] * 5 + [[], ["Host: h", "Host: i"]]),
    st.lists(st.sampled_from(HEADERS), max_size=3),
    st.sampled_from([""] * 5 + ["abc", "3\r\nabc\r\n0\r\n\r\n", "0\r\n\r\n"]),
)


KEYED = b"POST /next HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\n\r\n"


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """
    Draw the chunks of a conversation: requests, some repeated, in any pieces.
    """
    few = draw(st.lists(USUAL | ALMOST_USUAL | ANYTHING, min_size=1, max_size=5))
    requests = draw(st.lists(st.sampled_from(few), min_size=1, max_size=12))
    how = draw(st.sampled_from(("whole", "whole", "whole", "together", "cut")))
    if how == "whole":
        return requests
    stream = b"".join(requests)
    if how == "together":
        return [stream]
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    return [stream[start:end] for start, end in pairwise(edges) if end > start]


def hold(
    server: Server, chunks: list[bytes], *, patient: bool, ends: bool
) -> tuple[bytes, bool]:
    """
    Hold a conversation on a new connection.

    @param patient: the client waits for what it gets before it sends the next chunk.
    @param ends: the client closes its half of the connection at the end.
    @return: what the client got, and whether the connection was closed.
    """
    wire = server.connect()
    for chunk in chunks:
        wire.send(chunk)
        if patient:
            wire.turns()
    wire.turns()
    if ends:
        wire.end()
    wire.turns()
    received, closed = wire.received, wire.closed
    wire.lose()
    return received, closed


@settings(
    max_examples=amount(short=200, long=1500),
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(st.tuples(conversations(), st.booleans(), st.booleans()), max_size=3),
    st.sampled_from([None, frozenset({b"digest"})]),
    st.sampled_from([(), ("https://a.example",)]),
)
@example([([b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"] * 5, True, True)], None, ())
@example([([b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"] * 5, False, True)], None, ())
@example(
    [
        (
            [b"GET /current HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"] * 3,
            True,
            True,
        )
    ],
    None,
    (),
)
@example([([KEYED] * 3, True, True), ([KEYED] * 3, False, True)], None, ())
def test_responses_are_the_same_with_and_without_plans(
    talks: list[tuple[list[bytes], bool, bool]],
    tokens: frozenset[bytes] | None,
    origins: tuple[str, ...],
) -> None:
    """
    The cursor moves the same way too.

    This holds for all methods, paths, headers and versions, repeated, pipelined and in
    pieces.
    """
    with_cache, without = (
        Server(remembers=remembers, access=Access(tokens, origins))
        for remembers in (True, False)
    )
    for chunks, patient, ends in talks:
        assert hold(with_cache, chunks, patient=patient, ends=ends) == hold(
            without, chunks, patient=patient, ends=ends
        )
        # A state's repr has its revision and position, and not the term's identity.
        assert repr(with_cache.committer.durable) == repr(without.committer.durable)
    assert without.shared.requests.planned() == 0


def test_requests_split_at_any_byte_get_the_same_responses() -> None:
    """
    Also when their plans are known.
    """
    first_request = b"POST /next HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n"
    second_request = b"GET /current HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    servers = [Server(remembers=remembers) for remembers in (True, False)]
    for cut in range(len(first_request + second_request) + 1):
        stream = first_request + second_request
        chunks = [
            first_request,
            second_request,
            *filter(None, (stream[:cut], stream[cut:])),
            second_request,
        ]
        answers = {hold(server, chunks, patient=True, ends=True) for server in servers}
        assert len(answers) == 1, cut
    assert servers[0].shared.requests.planned() > servers[0].shared.requests.unplanned


def test_usual_request_is_parsed_once_and_then_recognized() -> None:
    """
    So the comparison compares something.
    """
    server = Server()
    request = b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"
    wire = server.connect()
    wire.send(request)
    wire.turns()
    assert server.shared.requests.unplanned == 1
    other = server.connect()
    other.send(request)
    other.turns()
    assert other.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.shared.requests.unplanned == 1
