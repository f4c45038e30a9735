"""
The search for headers that take more than linear time.

Every header that is read, by this package or by Twisted for it, gets values near the
largest size, made of runs of everything that a regular expression could stumble over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import count, product

import pytest
from twisted.internet.address import UNIXAddress

from pexservice.web.access import Access
from pexservice.web.parameters import HEADERS
from tests.support.wire import Server

#: The headers in the table, those that Twisted reads by itself, and the query.
PLACES = {*(name.decode() for name in HEADERS), "content-type", "query"}

RUNS = (
    *' \t,;"\\=/:.*-%&+a0[]{(\xff',
    *(", ", " ,", '",', ';"', '\\"', '" ', "W/", 'W/"', ";q", ";q=0", ";a=b", "a/", "a."),
    *("1.", ":1", "::", "1,", "[:", "=?"),
)

#: The beginning of a value as it should be; the others begin with a letter.
BEGINNINGS = {
    "accept": "a/b",
    "authorization": "Bearer a",
    "content-type": "multipart/form-data",
    "if-match": '"1",',
    "if-none-match": '"1"',
    "origin": "http://a",
    "sec-fetch-site": "none",
    "x-forwarded-for": "1.2.3.4",
}

#: Bytes; twice the size and the rest of the head have room in the largest head.
SIZE = 7_500

#: Seconds; values that take less need no comparison with values of half the size.
FAST = 0.003

#: The most that twice the size may take: quadratic time has 4, linear time 2.
RATIO = 3.2

#: How often a size is measured: again with more tries while the ratio is too large.
TRIES = (1, 3, 9, 27)


def values(place: str) -> Iterator[tuple[str, str]]:
    """
    Yield beginnings and runs of values.
    """
    return product(dict.fromkeys(("", BEGINNINGS.get(place, "a"), '"')), RUNS)


_numbers = count()


def step(header: str, value: str) -> Iterator[bytes]:
    """
    Yield a request with the header: a GET that moves, so every header has a meaning.

    The length of a body is whatever value is tried, so such a request may be refused.
    """
    # So that nothing that was parsed before can be looked up.
    value = f"{value}{next(_numbers)}"
    others = {"host": "localhost", "authorization": "Bearer a", "content-length": "1"}
    others.pop(header, None)
    lines = [f"{name}: {other}" for name, other in others.items()]
    head = "\r\n".join(["GET /next HTTP/1.1", *lines, f"{header}: {value}", "", "x"])
    yield head.encode("latin-1")


def query(value: str) -> Iterator[bytes]:
    """
    Yield requests with a query, which has half the size of a header.
    """
    value = re.sub(r"[^!-~]", "+", value[: len(value) // 2 + 1])
    for path in ("/history", "/readyz", "/next"):
        yield f"GET {path}?{value}{next(_numbers)} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def taken(server: Server, header: str, parts: tuple[str, str], size: int) -> float:
    """
    Return how long the process works for requests with a value of C{size}.  Seconds.
    """
    beginning, run = parts
    value = beginning + (run * size)[: size - len(beginning)] + "x"
    requests = list(query(value) if header == "query" else step(header, value))
    wires = [server.connect(UNIXAddress(None)) for _ in requests]
    began = time.process_time()
    for wire, request in zip(wires, requests, strict=True):
        wire.send(request)
        wire.turns(3)
    spent = time.process_time() - began
    for wire in wires:
        # With a length, a request may wait for the body that is promised.
        if header != "content-length":
            assert wire.received.startswith(b"HTTP/1.1 "), (header, parts)
        wire.lose()
    return spent


def ratio(server: Server, header: str, parts: tuple[str, str], tries: int) -> float:
    """
    Return how much longer a value of twice the size takes; the best of C{tries} tries.
    """
    half, whole = (
        min(taken(server, header, parts, size) for _ in range(tries))
        for size in (SIZE, 2 * SIZE)
    )
    return whole / half


@pytest.fixture(scope="module")
def server() -> Server:
    """
    Return a server that reads every header.
    """
    tokens = frozenset({sha256(b"a").digest()})
    access = Access(tokens, ["https://pages.example.org"])
    return Server(remembers=False, rate=1_000_000, access=access)


@pytest.mark.parametrize("place", sorted(PLACES))
def test_time_to_parse_grows_linearly_with_any_repeated_value(
    server: Server, place: str
) -> None:
    for parts in values(place):
        if taken(server, place, parts, 2 * SIZE) > FAST:
            assert any(ratio(server, place, parts, tries) < RATIO for tries in TRIES), parts


def test_search_finds_a_backtracking_expression(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = re.compile(rb"k(?:[ \t]*;|[ \t])*z")
    monkeypatch.setattr("pexservice.web.parameters._IDEMPOTENCY_KEY", slow)
    # A machine that is busy with something else hides the difference now and then.
    parts = ("k", " ")
    assert any(ratio(server, "idempotency-key", parts, 1) > RATIO for _ in range(5))
