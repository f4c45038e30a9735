"""
Tests of the requests that the plan cache recognizes, and of the bytes that it keeps.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from pexservice.server.plain_heads import LONGEST_HEAD, MOST_HEADERS, MOST_KNOWN
from pexservice.server.plan_cache import MOST_EXACT, MOST_MADE, MOST_SHAPES
from tests.support.wire import Server, Wire

CURRENT = b"GET /current HTTP/1.1\r\nHost: h\r\n"
NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\n"
BROWSER = CURRENT + b"".join(
    b"%b: %b\r\n" % (name, name) for name in (b"X-%d" % number for number in range(12))
)


@pytest.fixture
def server() -> Server:
    """
    Return a server that has parsed a read and a step.
    """
    made = Server()
    for head in (CURRENT, NEXT):
        ask(made, head + b"\r\n")
    return made


def ask(server: Server, *heads: bytes, wire: Wire | None = None) -> list[int]:
    """
    Return the statuses that C{heads} get, on one connection.
    """
    wire = wire or server.connect()
    before = len(wire.transport.value())
    for head in heads:
        wire.send(head)
        wire.turns(4)
    lines = wire.transport.value()[before:].split(b"\n")
    return [int(line.split()[1]) for line in lines if line.startswith(b"HTTP/1.1 ")]


def parsed(server: Server, *heads: bytes, wire: Wire | None = None) -> int:
    """
    Return how many of C{heads} were parsed, all of which are answered.
    """
    before = server.fast_path.requests.misses()
    assert len(ask(server, *heads, wire=wire)) == len(heads)
    return server.fast_path.requests.misses() - before


_ids = count()


def identified(start: bytes, number: int) -> list[bytes]:
    """
    Return C{number} heads, each with an id that no other head has.
    """
    return [
        start + b"X-Request-ID: %032d\r\nX-Z: z\r\n\r\n" % next(_ids) for _ in range(number)
    ]


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"User-Agent: curl/8.5.0\r\nAccept: */*\r\n",
        b"Connection: Keep-Alive\r\n",
        b"If-None-Match: nonsense\r\n",
        b"Idempotency-Key: not one\r\n",
        b"Content-Length: 0\r\n",
        b"Cookie: a=b\r\n",
        b"Purpose: prefetch\r\n",
        b"X: " + b"x" * 5000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("start", [CURRENT, NEXT])
def test_never_parsed_again(server: Server, start: bytes, lines: bytes) -> None:
    """
    A request whose deciding headers are known is not parsed again.

    This holds whatever else is in the request, also if it is refused for that.
    """
    decides = (b"Accept:", b"Connection:", b"Content-Length:", b"Purpose:")
    new = any(name in lines for name in decides)
    assert parsed(server, *[start + lines + b"\r\n"] * 3) == new


@pytest.mark.parametrize(
    "lines",
    [
        b"Expect: 100-continue\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
        b"Content-Length: 00\r\n",
        b"X:y\r\n",
        b"X: y \r\n",
        b"X: a\r\n b\r\n",
        b"Accept: */*\r\nAccept: */*\r\n",
        b"Upgrade: h2c\r\n",
        b"X: " + b"x" * LONGEST_HEAD + b"\r\n",
    ],
)
def test_always_parsed(server: Server, lines: bytes) -> None:
    """
    A head that is not plain is left to the parser each time.
    """
    heads = [CURRENT + lines + b"\r\n"] * 3
    assert parsed(server, *heads) == 3


def test_shapes(server: Server) -> None:
    """
    Heads that differ in one line are recognized by a shape.

    Their other lines are compared as a whole.
    """
    wire = server.connect()
    assert parsed(server, *identified(BROWSER, 5), wire=wire) == 0
    shape = wire.protocol.shapes[0]
    assert (shape.prefix, shape.suffix) == (BROWSER, b"\r\nX-Z: z\r\n\r\n")
    # Another connection of such a client has it from the first request on.
    other = server.connect()
    assert parsed(server, *identified(BROWSER, 1), wire=other) == 0
    assert other.protocol.shapes == (shape,)


def test_heads_that_alternate(server: Server) -> None:
    """
    A connection has a few shapes, so heads that alternate are recognized.
    """
    wire = server.connect()
    two = [identified(start, 9) for start in (CURRENT, NEXT)]
    turns = [each for pair in zip(*two, strict=True) for each in pair]
    assert parsed(server, *turns, wire=wire) == 0
    assert [shape.prefix for shape in wire.protocol.shapes[:2]] == [NEXT, CURRENT]


def test_a_second_host_behind_a_shape(server: Server) -> None:
    """
    A second Host between the lines of a shape is refused, as the whole head counts.
    """
    wire = server.connect()
    ask(server, *identified(BROWSER, 3), wire=wire)
    # Neither of the new lines is known, so no closer shape is made.
    twice = identified(BROWSER + b"hOST: h\r\n", 1)
    assert ask(server, *twice, wire=wire) == [400]
    assert ask(server, *identified(BROWSER, 1)) == [200]


def test_too_many_lines_behind_a_shape(server: Server) -> None:
    """
    A head that fits a shape may have no more lines than a head that is parsed.
    """
    most = MOST_HEADERS - BROWSER.count(b"\r\n") + 1 - 2
    for number, status in ((most, 200), (most + 1, 431)):
        wire = server.connect()
        ask(server, *identified(BROWSER, 3), wire=wire)
        lines = b"".join(b"A%d: b\r\n" % each for each in range(number))
        assert ask(server, *identified(BROWSER + lines, 1), wire=wire) == [status]


def test_an_argument_twice(server: Server) -> None:
    """
    A repeated argument is refused behind a shape too, and does not stay with the shape.
    """
    wire = server.connect()
    keyed = [NEXT + b"Idempotency-Key: %d\r\nX: y\r\n\r\n" % n for n in range(4)]
    assert ask(server, *keyed, wire=wire) == [200] * 4
    twice = keyed[0].replace(b"X:", b"Idempotency-Key: z\r\nX:")
    assert ask(server, twice, *keyed, wire=wire) == [400] + [200] * 4
    assert server.committer.durable.revision == 5


def test_retired(server: Server) -> None:
    """
    A retired plan cache recognizes nothing any more, neither by bytes, shapes nor lines.
    """
    wire = server.connect()
    ask(server, *identified(CURRENT, 3), wire=wire)
    server.fast_path.cache.retire()
    heads = [*identified(CURRENT, 2), CURRENT + b"\r\n"]
    assert parsed(server, *heads, wire=wire) == 3
    assert parsed(server, *heads) == 3


FLOODS: dict[str, Callable[[int], bytes]] = {
    "a query": lambda n: b"GET /current?%d HTTP/1.1\r\nHost: h\r\n\r\n" % n,
    "Accept": lambda n: CURRENT + b"Accept: a/b%d\r\n\r\n" % n,
    "Connection": lambda n: CURRENT + b"Connection: c%d\r\n\r\n" % n,
    "Origin": lambda n: CURRENT + b"Origin: http://a%d\r\n\r\n" % n,
    "Host": lambda n: b"GET /current HTTP/1.1\r\nHost: h%d\r\n\r\n" % n,
    "a name": lambda n: CURRENT + b"X%d: y\r\n\r\n" % n,
    "an id": lambda n: CURRENT + b"X-Request-ID: %d\r\n\r\n" % n,
    "twelve lines": lambda n: (
        CURRENT + b"".join(b"X%d: %d\r\n" % (k, n) for k in range(12)) + b"\r\n"
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood(server: Server, flood: str) -> None:
    """
    However many values a client sends, there are as many plans as there are meanings.

    The kept bytes are bounded, and other requests are recognized as before.
    """
    honest, attacker = server.connect(), server.connect()
    ask(server, *identified(BROWSER, 3), wire=honest)
    make = FLOODS[flood]
    for number in range(3 * MOST_KNOWN):
        attacker.send(make(number))
        attacker.send(make(number))
    assert server.fast_path.requests.misses() <= 4
    assert parsed(server, *identified(BROWSER, 3), CURRENT + b"\r\n", wire=honest) == 0
    cache = server.fast_path.cache
    assert len(cache) <= 6
    assert max(map(len, (cache.exact, cache._exact_before))) <= MOST_EXACT
    reader = cache._reader
    assert max(map(len, (reader._known, reader._known_before))) <= MOST_KNOWN
    assert len(cache._shapes) <= min(MOST_SHAPES, MOST_MADE + 1)


def test_shapes_are_bounded(server: Server) -> None:
    """
    Unused shapes go first.

    Connections that had them are recognized by their lines, and have other shapes in the
    next second.
    """
    honest, idle = server.connect(), server.connect()
    ask(server, *identified(BROWSER, 3), wire=honest)
    ask(server, *identified(NEXT, 3), wire=idle)
    for number in range(2 * MOST_SHAPES):
        wire = server.connect()
        start = CURRENT.replace(b"current", b"current?%d" % number)
        ask(server, *identified(start, 3), wire=wire)
        wire.lose()
        if number % 50 == 0:
            server.fast_path.tick()
            ask(server, *identified(BROWSER, 1), wire=honest)
    cache = server.fast_path.cache
    assert len(cache._shapes) <= MOST_SHAPES
    assert honest.protocol.shapes[0] in cache._shapes.values()
    assert idle.protocol.shapes[0] not in cache._shapes.values()
    assert parsed(server, *identified(NEXT, 3), wire=idle) == 0
    assert idle.protocol.shapes[0] in cache._shapes.values()


def kept(whole: object) -> Iterator[bytes]:
    """
    Yield the byte strings reachable from C{whole} through the server's own objects.
    """
    seen: set[int] = set()
    waiting = [whole]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type):
            continue
        seen.add(id(each))
        ours = type(each).__module__.startswith("pexservice.server")
        if isinstance(each, bytes):
            yield each
        elif ours or isinstance(each, (dict, list, tuple, set)):
            waiting += gc.get_referents(each)


@pytest.mark.parametrize(
    "name", [b"Authorization", b"Proxy-Authorization", b"Cookie", b"Idempotency-Key"]
)
def test_no_secret_is_kept(server: Server, name: bytes) -> None:
    """
    The plan cache keeps no secret.

    There is none in a request's bytes, in its shape or in its lines.
    """
    wire = server.connect()
    secret = NEXT + name + b": Bearer-s3cret\r\n"
    heads = [secret + b"X: %d\r\n\r\n" % (number // 3) for number in range(9)]
    assert parsed(server, *heads, wire=wire) == 0
    cache = server.fast_path.cache
    assert not [each for each in kept([cache, wire.protocol.shapes]) if b"s3cret" in each]
    assert [each for each in kept(cache) if b"POST /next" in each]


def test_two_hosts_where_none_is_needed(server: Server) -> None:
    """
    A request of HTTP/1.0 needs no C{Host}, but two are refused.

    This holds also where the shape of the request's head is known without any C{Host}.
    """
    start, end = b"GET /current HTTP/1.0\r\nUser-Agent: a\r\n", b"X-Z: z\r\n\r\n"
    for number in range(4):
        wire = server.connect()
        wire.send(start + b"X-Request-ID: %d\r\n" % number + end)
        wire.turns(4)
        assert wire.received.startswith(b"HTTP/1.0 200 ")
    wire = server.connect()
    wire.send(start + b"Host: a\r\nHost: b\r\n" + end)
    wire.turns(4)
    assert b" 400 " in wire.received


def test_a_tag_that_is_sent_again(server: Server) -> None:
    """
    A client that asks again and again whether the cursor has moved is recognized.

    The plan cache recognizes the bytes of its request.  The client gets the new value once
    the cursor has moved.
    """
    asked = CURRENT + b'If-None-Match: "1"\r\n\r\n'
    wire = server.connect()
    # The connection has a shape whose heads differ where the tag's line is.
    ask(server, *identified(CURRENT, 3), wire=wire)
    ask(server, *[CURRENT + b'If-None-Match: "%d"\r\n\r\n' % n for n in (7, 8)], wire=wire)
    assert ask(server, *[asked] * 5, wire=wire) == [304] * 5
    assert asked in server.fast_path.cache.exact
    assert ask(server, NEXT + b"\r\n", asked, wire=wire) == [200, 200]


OLD = b"GET /current HTTP/1.0\r\nUser-Agent: a\r\n"

STRANGE = [
    *(b"", b" ", b"a ", b" a", b"\t", b"a\x00b", b"a\x7f", b"\xff", b"a\nb", b"a\rb"),
    *(b"a\r\n b", b"a\r\nHost: b", b"a\r\nX: b", b"a\r\nTransfer-Encoding: chunked"),
    *(
        b"application/json",
        b"close",
        b'"1"',
        b'"1", "2"',
        b"*",
        b"W/",
        b"b:c@d",
        b"x" * 600,
        b"x" * 9000,
    ),
    *(b"a\r\n\r\nGET /current HTTP/1.1\r\nHost: h", b"a\r\nX-Request-ID: b"),
]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize(
    ("start", "name"),
    [
        (CURRENT, b"X-Request-ID"),
        (CURRENT, b"If-None-Match"),
        (CURRENT, b"Accept"),
        (CURRENT, b"Connection"),
        (CURRENT, b"Cookie"),
        (NEXT, b"Idempotency-Key"),
        (NEXT, b"If-Match"),
        (NEXT, b"Origin"),
        (OLD, b"Host"),
        (OLD, b"X-Request-ID"),
    ],
)
def test_any_value_where_one_differs(start: bytes, name: bytes, strange: bytes) -> None:
    """
    A head with any value at all in the line that varies is answered as by the parser.
    """
    heads = [start + b"X-Z: z\r\n\r\n"] * 2
    heads += [start + b"%b: %d\r\nX-Z: z\r\n\r\n" % (name, n) for n in range(11, 16)]
    heads += [start + name + b": " + strange + b"\r\nX-Z: z\r\n\r\n", heads[0]]
    received = []
    for remembers in (True, False):
        server = Server(remembers=remembers)
        wires = [server.connect() for _ in heads]
        for wire, head in zip(wires, heads, strict=True):
            wire.send(head)
            wire.turns(6)
        received.append([wire.received for wire in wires])
    assert received[0] == received[1]
