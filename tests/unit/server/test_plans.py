"""
Tests of plans and of recognition: which requests share a plan, and what is remembered.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count

import pytest

from pexservice.server.recognition import MAX_NEW_TEMPLATES_PER_SECOND, MAX_TEMPLATES
from pexservice.web.access import Access
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
    new_server = Server()
    for head in (CURRENT, NEXT):
        ask(new_server, head + b"\r\n")
    return new_server


def ask(server: Server, *heads: bytes, wire: Wire | None = None) -> list[int]:
    """
    Return the statuses that C{heads} get, on one connection.
    """
    wire = wire or server.connect()
    before = len(wire.statuses)
    for head in heads:
        wire.send(head)
        wire.turns(4)
    return wire.statuses[before:]


def asked(server: Server, *heads: bytes, wire: Wire | None = None) -> int:
    """
    Return for how many of C{heads} a handler was asked; all of them get a response.
    """
    before = server.shared.counters.without_plan
    assert len(ask(server, *heads, wire=wire)) == len(heads)
    return server.shared.counters.without_plan - before


_ids = count()


def identified(start: bytes, number: int) -> list[bytes]:
    """
    Return C{number} heads, each with an id that no other head has.
    """
    return [
        start + b"X-Request-ID: %032d\r\nX-Z: z\r\n\r\n" % next(_ids) for _ in range(number)
    ]


@pytest.mark.parametrize(
    ("lines", "is_new"),
    [
        (b"", False),
        (b"User-Agent: curl/8.5.0\r\nAccept: */*\r\n", True),
        (b"Connection: Keep-Alive\r\n", True),
        (b"Accept: */*\r\nAccept: */*\r\n", True),
        (b"If-None-Match: nonsense\r\n", False),
        (b"Idempotency-Key: not one\r\n", False),
        (b"Content-Length: 0\r\n", False),
        (b"Content-Length: 00\r\n", False),
        (b"Expect: 100-continue\r\n", False),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", False),
        (b"Upgrade: h2c\r\n", False),
        (b"X:y\r\n", False),
        (b"X: y \r\n", False),
        (b"Cookie: a=b\r\n", False),
        (b"X: " + b"x" * 9000 + b"\r\n", False),
    ],
)
@pytest.mark.parametrize("start", [CURRENT, NEXT])
def test_handler_is_asked_once_for_each_meaning(
    server: Server,
    start: bytes,
    lines: bytes,
    is_new: bool,  # noqa: FBT001 pytest passes it by its name
) -> None:
    """
    A request whose deciding headers have known meanings is not asked for again.

    This holds whatever else is in the request, also if it is refused for that.
    """
    assert asked(server, *[start + lines + b"\r\n"] * 4) == is_new


def test_body_in_one_piece_with_its_head_is_found_by_its_bytes(server: Server) -> None:
    """
    The third time, a step with a body is recognized; one with another body is not.
    """
    body = NEXT + b"Content-Length: 2\r\n\r\n"
    assert ask(server, *[body + b"{}"] * 4) == [200] * 4
    exact = server.shared.request_cache.by_bytes.recent
    assert (body + b"{}" in exact, body + b"[]" in exact) == (True, False)
    assert ask(server, body + b"[]", NEXT + b"\r\n") == [200, 200]
    assert server.committer.durable.revision == 7


def test_heads_that_differ_in_one_line_share_a_template(server: Server) -> None:
    """
    The bytes before and behind the varying line are compared as a whole.
    """
    wire = server.connect()
    assert asked(server, *identified(BROWSER, 6), wire=wire) == 0
    template = wire.templates[0]
    assert (template.prefix, template.suffix) == (BROWSER, b"\r\nX-Z: z\r\n\r\n")
    # Another connection of such a client has it from the first request on.
    other = server.connect()
    assert asked(server, *identified(BROWSER, 1), wire=other) == 0
    assert other.templates == (template,)


def test_up_to_four_neighbouring_lines_may_vary(server: Server) -> None:
    """
    A proxy's lines about its client vary together, and lines between them vary too.
    """
    lines = b"X-Real-IP: %d\r\nX-Forwarded-For: 192.0.2.%d\r\nX-Proto: http\r\nX-Id: %d\r\n"
    wire = server.connect()
    heads = [CURRENT + lines % (n, n, n) + b"A: b\r\n\r\n" for n in range(9)]
    assert ask(server, *heads, wire=wire) == [200] * 9
    template = wire.templates[0]
    assert (template.prefix, template.suffix) == (CURRENT, b"\r\nA: b\r\n\r\n")
    assert template.used_names == (b"x-forwarded-for",)
    five = [
        CURRENT + b"".join(b"X-%d: %d\r\n" % (k, n) for k in range(5)) + b"\r\n"
        for n in range(4)
    ]
    wire = server.connect()
    ask(server, *five, wire=wire)
    assert wire.templates == ()


def test_two_heads_in_turns_have_a_template_each(server: Server) -> None:
    """
    A connection has two templates, and a third head takes the place of the older one.
    """
    wire = server.connect()
    other = CURRENT + b"User-Agent: a\r\n"
    for start in (CURRENT, NEXT, other):
        assert asked(server, *identified(start, 6), wire=wire) == 0
    assert [template.prefix for template in wire.templates] == [other, NEXT]
    two = [identified(start, 9) for start in (other, NEXT)]
    turns = [head for pair in zip(*two, strict=True) for head in pair]
    assert asked(server, *turns, wire=wire) == 0
    assert {template.prefix for template in wire.templates} == {other, NEXT}


def test_request_after_an_empty_line_makes_no_template(server: Server) -> None:
    """
    In its bytes, the varying lines are two bytes further on than in its head.
    """
    wire = server.connect()
    heads = [b"\r\n" + head for head in identified(NEXT, 4)]
    assert ask(server, *heads, wire=wire) == [200] * 4
    assert wire.templates == ()


def test_stopping_server_remembers_nothing(server: Server) -> None:
    """
    After C{RequestCache.stop}, each request is parsed, and its handler is called.
    """
    wire = server.connect()
    ask(server, *identified(CURRENT, 4), wire=wire)
    server.shared.request_cache.stop()
    heads = [*identified(CURRENT, 2), CURRENT + b"\r\n"]
    assert asked(server, *heads, wire=wire) == 3
    assert asked(server, *heads) == 3


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
def test_flood_of_new_heads_keeps_bounded_bytes_and_disturbs_no_other_client(
    flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    There are only as many plans as meanings, however many values a client sends.
    """
    limit = 100
    monkeypatch.setattr("pexservice.server.parser.MAX_CACHED_LINES", limit)
    monkeypatch.setattr("pexservice.server.recognition.MAX_CACHED_REQUESTS", limit)
    server = Server()
    ask(server, CURRENT + b"\r\n", NEXT + b"\r\n")
    honest, attacker = server.connect(), server.connect()
    ask(server, *identified(BROWSER, 4), wire=honest)
    make = FLOODS[flood]
    for number in range(3 * limit):
        for _ in range(3):
            attacker.send(make(number))
    assert server.shared.counters.without_plan <= 4
    assert asked(server, *identified(BROWSER, 3), CURRENT + b"\r\n", wire=honest) == 0
    shared = server.shared
    assert len(shared.request_cache.plans) <= 6
    for cache in (
        shared.request_cache.by_bytes,
        shared.reader._request_lines,
        shared.reader._header_lines,
    ):
        assert max(len(cache.recent), len(cache._old)) <= limit
    assert len(attacker.templates) <= MAX_TEMPLATES


def test_new_templates_in_a_second_are_bounded(server: Server) -> None:
    """
    A connection without a template is served too, and gets one in the next second.
    """
    starts = [b"GET /current?%d HTTP/1.1\r\nHost: h\r\n" % n for n in range(400)]
    wires = [server.connect() for _ in starts[:90]]
    for number, start in enumerate(starts):
        wire = wires[number % len(wires)]
        assert ask(server, *identified(start, 3), wire=wire) == [200] * 3
    assert server.shared.request_cache.new_templates == MAX_NEW_TEMPLATES_PER_SECOND
    last = server.connect()
    ask(server, *identified(NEXT, 4), wire=last)
    assert not any(template.prefix == NEXT for template in last.templates)
    server.shared.tick()
    ask(server, *identified(NEXT, 4), wire=last)
    assert last.templates[0].prefix == NEXT


def kept(server: Server, wire: Wire) -> Iterator[bytes]:
    """
    Yield the byte strings that the server and the templates of a connection keep.
    """
    seen: set[int] = set()
    shared = server.shared
    waiting: list[object] = [shared.reader, shared.request_cache, wire.templates]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        ours = type(item).__module__.startswith("pexservice.server")
        if isinstance(item, bytes):
            yield item
        elif ours or isinstance(item, (dict, list, tuple, set)):
            waiting += gc.get_referents(item)


@pytest.mark.parametrize(
    "name", [b"Authorization", b"Proxy-Authorization", b"Cookie", b"Idempotency-Key"]
)
def test_plans_keep_no_secret(server: Server, name: bytes) -> None:
    """
    No secret is in the bytes of a request, in a template, or in a cached line.
    """
    wire = server.connect()
    secret = NEXT + name + b": Bearer-s3cret\r\n"
    heads = [secret + b"X: %d\r\n\r\n" % (number // 3) for number in range(9)]
    assert asked(server, *heads, wire=wire) == 0
    kept_bytes = [*kept(server, wire)]
    assert not [text for text in kept_bytes if b"s3cret" in text]
    assert [text for text in kept_bytes if b"POST /next" in text]


def test_repeated_request_with_a_cookie_is_not_remembered(server: Server) -> None:
    """
    The value of the other varying line, which the service reads, is repeated too.
    """
    wire = server.connect()
    request = CURRENT + b'If-None-Match: "%d"\r\nCookie: s3cret\r\n\r\n'
    ask(server, *[request % number for number in (7, 8, 9, 9, 9, 9)], wire=wire)
    assert wire.templates[0].used_names == (b"if-none-match",)
    kept_bytes = kept(server, wire)
    assert not [text for text in kept_bytes if b"s3cret" in text]


def test_repeated_token_is_compared_on_its_own_connection_only() -> None:
    """
    A client's token is checked once while its requests stay the same.

    No other client profits: nearly the same bytes are refused, on whatever connection.
    """
    tokens = frozenset({sha256(b"s3cret").digest()})
    server = Server(access=Access(tokens))
    step = NEXT + b"Authorization: Bearer s3cret\r\n\r\n"
    wire, other = server.connect(), server.connect()
    for number in range(3):
        # Until the connection has a template in which the token's line varies.
        other_token = NEXT + b"Authorization: Bearer %d\r\n\r\n" % number
        assert ask(server, other_token, wire=wire) == [401]
    assert ask(server, *[step] * 3, wire=wire) == [200] * 3
    assert wire.protocol.recognizer.authorized_request is not None
    assert wire.protocol.recognizer.authorized_request[0] == step
    assert other.protocol.recognizer.authorized_request is None
    for wrong in (b"s3creT", b"s3cre", b"s3crett", b""):
        assert ask(server, step.replace(b"s3cret", wrong), wire=wire) == [401]
        assert ask(server, step.replace(b"s3cret", wrong), wire=other) == [401]
    assert ask(server, step, wire=wire) == [200]
    assert server.committer.durable.revision == 4
    server.connections.is_draining = True
    server.shared.request_cache.stop()
    assert ask(server, step, wire=wire) == [200]
    assert b"Connection: close" in wire.received


def test_repeated_token_does_not_help_against_the_rate_limit() -> None:
    server = Server(access=Access(frozenset({sha256(b"t").digest()})), rate=5)
    step = NEXT + b"Authorization: Bearer t\r\n\r\n"
    assert sorted(ask(server, *[step] * 9)) == [200] * 5 + [429] * 4


def test_failed_check_is_remembered_and_its_problem_comes_after_that_of_the_rate() -> None:
    server = Server(rate=5)
    wrong = NEXT + b"If-Match: nonsense\r\n\r\n"
    assert ask(server, *[wrong] * 7) == [400] * 5 + [429] * 2
    assert wrong in server.shared.request_cache.by_bytes.recent


def test_repeated_if_none_match_is_recognized_by_its_bytes(server: Server) -> None:
    """
    The client gets the new value once the cursor has moved.
    """
    request = CURRENT + b'If-None-Match: "1"\r\n\r\n'
    wire = server.connect()
    # The connection has a shape whose heads differ where the tag's line is.
    ask(server, *identified(CURRENT, 3), wire=wire)
    ask(server, *[CURRENT + b'If-None-Match: "%d"\r\n\r\n' % n for n in (7, 8)], wire=wire)
    assert ask(server, *[request] * 6, wire=wire) == [304] * 6
    assert request in server.shared.request_cache.by_bytes.recent
    assert ask(server, NEXT + b"\r\n", request, wire=wire) == [200, 200]


OLD = b"GET /current HTTP/1.0\r\nUser-Agent: a\r\n"

STRANGE = [
    *(b"", b" ", b"a ", b" a", b"\t", b"a\x00b", b"a\x7f", b"\xff", b"a\nb", b"a\rb"),
    *(b"a\r\n b", b"a\r\nHost: b", b"a\r\nX: b", b"a\r\nTransfer-Encoding: chunked"),
    *(b"a\r\nIdempotency-Key: b", b"a" + b"\r\nX: b" * 100, b"a\r\nX-Request-ID: b"),
    *(b"application/json", b"close", b'"1"', b'"1", "2"', b"*", b"W/", b"b:c@d"),
    *(b"x" * 600, b"x" * 9000, b"x" * 20_000),
    b"a\r\n\r\nGET /current HTTP/1.1\r\nHost: h",
]


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
def test_template_and_parser_agree_on_any_value_of_a_varying_line(
    start: bytes, name: bytes
) -> None:
    usual = [start + b"X-Z: z\r\n\r\n"] * 2
    usual += [start + b"%b: %d\r\nX-Z: z\r\n\r\n" % (name, n) for n in range(11, 16)]
    for strange in STRANGE:
        head = start + name + b": " + strange + b"\r\nX-Z: z\r\n\r\n"
        received = []
        for remembers in (True, False):
            server = Server(remembers=remembers)
            wires = [server.ask(sent) for sent in (*usual, head, usual[0])]
            received.append([wire.received for wire in wires])
        assert received[0] == received[1], strange
