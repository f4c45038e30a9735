"""
Conversations with the service, generated from a seed.

Most requests are typical ones.  They are repeated, varied in one header, pipelined or cut
in pieces, so that they use all code paths of the server.  Some are malformed.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from tests.support.chance import Chance
from tests.support.seam import SETUPS, TOKEN

_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "get", "BREW")
#: The most common request lines.
_USUAL = (
    *(("GET", "/current"), ("GET", "/next")) * 4,
    *(("POST", "/next"),) * 8,
    *(("POST", "/previous"), ("POST", "/reset"), ("GET", "/history?limit=2")) * 2,
    *(("GET", "/current?x=1"), ("HEAD", "/current"), ("GET", "/livez"), ("GET", "/")),
    *(("OPTIONS", "/next"), ("POST", "http://localhost/next"), ("GET", "/readyz?verbose")),
)
_PATHS = (
    *("/current", "/next", "/previous", "/reset", "/current?x=1") * 3,
    *("/", "/history", "/history?limit=2", "/livez", "/livez?verbose", "/readyz?verbose"),
    *("/metrics", "/openapi.json", "/nothing", "//next", "/next/", "/%6eext", "/Next"),
    *("/next?x=%zz", "/current#a", "http://localhost/next", "*"),
    *("/history?limit=0", "/history?limit=1&before=2", "http://localhost", "localhost:80"),
    *("/events?workers", "/current/..", "/./next"),
)
_ORIGIN_FORMS = tuple(path for path in _PATHS if path.startswith("/") and "#" not in path)
_VERSIONS = (*("HTTP/1.1",) * 14, *("HTTP/1.0",) * 4)
_ODD_VERSIONS = ("HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1", "HTTP/1.10", "")
_HOSTS = (
    *("localhost",) * 10,
    *("localhost:8081", "127.0.0.1", "[::1]:8081", "allowed.example", "LOCALHOST."),
    *("other.example", "a.localhost", "10.0.0.1:80"),
)
_ODD_HOSTS = ("", "a b", "user@localhost", "localhost:x", "a..b", "x" * 300, "%41", "a,b")
_TAGS = (
    *('"0"', '"1"', '"2"', '"3"', '"1-json"', '"2-json"', "*", 'W/"1"', '"1", "2"'),
    *('"9"', "1", '"', "", '"a,b", "1"', '"1-html"', ","),
)
_ACCEPTS = (
    *("*/*", "text/plain", "application/json", "application/json", "text/html", ""),
    *("application/problem+json", "text/*;q=0.5, application/json", "a/b;q=x"),
    *("application/json;q=0", "text/html,application/xhtml+xml,*/*;q=0.8"),
)
_HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Accept", _ACCEPTS),
    ("If-Match", _TAGS),
    ("If-None-Match", _TAGS),
    ("If-None-Match", _TAGS[:4]),
    ("Idempotency-Key", ("a", "a", "b", "k" * 255, "k" * 256, "a b", "", "~!@#", "\xe9")),
    ("Idempotency-Key", ("a", "b")),
    (
        "Connection",
        ("close", "keep-alive", "Keep-Alive", "Close", "upgrade", "foo, close", "a b"),
    ),
    ("Origin", ("http://localhost", "https://a.example", "https://b.example", "null")),
    ("Sec-Fetch-Site", ("same-origin", "none", "cross-site", "same-site")),
    ("Sec-Purpose", ("prefetch",)),
    ("Authorization", (f"Bearer {TOKEN}", f"bearer {TOKEN}", "Bearer other", "Basic eA==")),
    (
        "X-Forwarded-For",
        ("198.51.100.1", "198.51.100.2", "198.51.100.1, 192.0.2.1", "unknown", "::1", ""),
    ),
    ("User-Agent", ("curl/8.14.1", "Mozilla/5.0 (X11; Linux x86_64)", '"quoted"', "\xff")),
    ("Referer", ("http://localhost/", 'http://x/"')),
    ("X-Request-ID", ("1", "2", "3")),
    ("Accept-Encoding", ("gzip, deflate, br",)),
    ("Cookie", ("a=b",)),
    ("Range", ("bytes=0-0",)),
    ("TE", ("trailers",)),
    ("Upgrade", ("h2c",)),
    ("Access-Control-Request-Method", ("POST",)),
    ("Last-Event-ID", ("0", "1")),
)
#: Headers that clients send with a new value in each request.
_VARYING: tuple[Callable[[int], str], ...] = (
    lambda number: f"X-Request-ID: {number * 7919:08x}",
    lambda number: f'If-None-Match: "{number}"',
    lambda number: f'If-Match: "{number}"',
    lambda number: f"Idempotency-Key: key-{number}",
    lambda number: f"X-Forwarded-For: 198.51.100.{number}",
    lambda number: f"User-Agent: client/{number}",
    lambda number: f"Accept: text/plain;q=0.{number}",
    lambda number: f"Authorization: Bearer {TOKEN if number % 2 else number}",
    lambda number: f"X-Trace-{number}: 1",
    lambda number: f"Origin: https://{'ab'[number % 2]}.example",
    lambda number: f"Connection: {'close' if number == 2 else 'keep-alive'}",
    lambda number: f"Content-Length: {'0' * number}0",
)


@frozen
class Conversation:
    """
    What one client sends on one connection.

    @ivar setup: the name of the server's setup, one of L{SETUPS}.
    @ivar chunks: the pieces in which the bytes arrive.
    @ivar patient: the client waits for responses between two chunks.
    @ivar ends: the client closes its half of the connection after the last chunk.
    """

    setup: str
    chunks: tuple[bytes, ...]
    patient: bool
    ends: bool

    @property
    def sent(self) -> bytes:
        return b"".join(self.chunks)


def conversation(seed: int) -> Conversation:
    """
    Return the conversation that belongs to C{seed}.
    """
    chance = Chance(seed)
    requests = chance.choose(_ORDERS)(chance)
    patient = chance.happens(0.8)
    chunks = requests
    if not patient or chance.happens(0.2):
        stream = b"".join(requests)
        chunks = [stream] if chance.happens(0.4) else chance.pieces(stream, 6)
    return Conversation(
        setup=chance.choose(SETUPS),
        chunks=tuple(chunks),
        patient=patient,
        ends=chance.happens(0.5),
    )


# Orders of requests on a connection.


def _different(chance: Chance) -> list[bytes]:
    return [_request(chance) for _ in range(1 + chance.below(4))]


def _repeated(chance: Chance) -> list[bytes]:
    return [_request(chance)] * (2 + chance.below(4))


def _in_turns(chance: Chance) -> list[bytes]:
    return [_request(chance), _request(chance)] * (2 + chance.below(2))


def _with_a_varying_header(chance: Chance) -> list[bytes]:
    first = _request(chance)
    if b"\r\n" not in first:
        return [first] * 3
    vary = chance.choose(_VARYING)
    head, end, body = first.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    # A proxy adds its own headers after those of the client.
    place = len(lines) if chance.happens(0.3) else 1
    return [
        b"\r\n".join([*lines[:place], vary(number).encode("latin-1"), *lines[place:]])
        + end
        + body
        for number in range(3 + chance.below(4))
    ]


def _with_one_key(chance: Chance) -> list[bytes]:
    lines = ("POST /next", "POST /next", "POST /reset", "GET /next", "GET /current")
    key = chance.choose(("a", "b", "c" * 255))
    return [
        f"{chance.choose(lines)} HTTP/1.1\r\nHost: localhost\r\n"
        f"Idempotency-Key: {key}\r\n\r\n".encode()
        for _ in range(2 + chance.below(3))
    ]


def _one(chance: Chance) -> list[bytes]:
    return [_request(chance)]


_ORDERS = (
    *(_different, _different, _different, _repeated, _repeated, _in_turns, _in_turns),
    *(_with_a_varying_header,) * 4,
    *(_with_one_key, _one),
)


# Requests.


def valid_request(chance: Chance) -> bytes:
    """
    Return an HTTP/1.1 request with a target in origin form that every parser accepts.
    """
    method, path = chance.choose(_USUAL)
    if path not in _ORIGIN_FORMS or chance.happens(0.2):
        method, path = chance.choose(_METHODS), chance.choose(_ORIGIN_FORMS)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {chance.choose(_HOSTS)}"]
    for _ in range(chance.below(5)):
        name, values = chance.choose(_HEADERS)
        if name not in ("Connection", "Upgrade"):
            lines.append(_header(chance, name, chance.choose(values)))
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _request(chance: Chance) -> bytes:
    method, path = chance.choose(_USUAL)
    if chance.happens(0.15):
        method, path = chance.choose(_METHODS), chance.choose(_PATHS)
    lines = [f"{method} {path} {_version(chance)}"]
    host = chance.choose(_ODD_HOSTS if chance.happens(0.02) else _HOSTS)
    if not chance.happens(0.02):
        lines.append(f"Host: {host}")
    for _ in range(chance.below(5)):
        name, values = chance.choose(_HEADERS)
        lines.append(_header(chance, name, chance.choose(values)))
    framing, body = _framed(chance)
    lines += framing
    if chance.happens(0.1):
        # The order of headers has no meaning.
        lines.append(lines.pop(1 + chance.below(len(lines) - 1)) if lines[1:] else "X: y")
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    return _damaged(chance, data) if chance.happens(0.1) else data


def _version(chance: Chance) -> str:
    return chance.choose(_ODD_VERSIONS if chance.happens(0.02) else _VERSIONS)


def _header(chance: Chance, name: str, value: str) -> str:
    if chance.happens(0.2):
        name = name.lower() if chance.happens(0.7) else name.upper()
    before = chance.choose(("", "  ", "\t")) if chance.happens(0.1) else " "
    after = chance.choose((" ", "\t ")) if chance.happens(0.05) else ""
    return f"{name}:{before}{value}{after}"


def _framed(chance: Chance) -> tuple[list[str], bytes]:
    """
    Return framing headers, and the body that they announce.
    """
    if chance.happens(0.75):
        return [], b""
    body = b"x" * chance.below(12) if chance.happens(0.9) else b"x" * 70_000
    expect = ["Expect: 100-continue"] if chance.happens(0.15) else []
    if chance.happens(0.5):
        return [f"Content-Length: {len(body)}", *expect], body
    size = 1 + chance.below(len(body) + 1)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    extension = b";a=b" if chance.happens(0.2) else b""
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    trailer = b"a: b\r\n" if chance.happens(0.2) else b""
    return ["Transfer-Encoding: chunked", *expect], chunks + b"0\r\n" + trailer + b"\r\n"


_LINES = (
    *(b"X: a\r\n b", b"Bad Name: 1", b"X : 1", b"X", b": 1", b"X: a\0b", b"X: a\nb"),
    *(b"X: a\rb", b"Content-Length: 1", b"Content-Length: x", b"Content-Length: -1"),
    *(b"Content-Length: 65537", b"Content-Length: 1, 1", b"Transfer-Encoding: gzip"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Host: second"),
    *(b"Expect: 100-continue", b"Expect: other", b"\tX: 1", b"X: \xff", b"X\xe9: 1"),
    *(b"X: " + b"y" * 17_000, b"\r\n".join(b"X%d: 1" % i for i in range(120))),
    *(b"A: " + b"b" * 9000 + b"\r\nC: " + b"d" * 9000, b"Cookie: " + b"c" * 9000),
)
_BYTES = (
    *(b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"\xff", b"0", b"/"),
    *(b"z" * 100, b"z" * 9000),
)


def _damaged(chance: Chance, data: bytes) -> bytes:
    """
    Return a changed request, which is usually malformed.
    """
    kind = chance.below(6)
    head, end, body = data.partition(b"\r\n\r\n")
    if kind == 0:
        return head + b"\r\n" + chance.choose(_LINES) + end + body
    if kind == 1:
        line, separator, rest = data.partition(b"\r\n")
        return line + separator + chance.choose(_LINES) + b"\r\n" + rest
    if kind == 2:
        return b"\r\n" * (1 + chance.below(2)) + data
    if kind == 3:
        return data[: chance.below(len(data))]
    start = chance.below(len(data))
    length = chance.below(4) if kind == 4 else 0
    return data[:start] + chance.choose(_BYTES) + data[start + length :]
