"""
The requests that the oracle sends to both versions.

Each case is one connection.  Most send a request twice, for the second time may be answered
by another way than the first, and then one that ends the connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product

from tests.labs.attacks.attacking import whole
from tests.labs.attacks.lab import PROMPT
from tests.support.oracle import Case

#: A request that ends the connection, and does nothing else.
LAST = b"GET /livez HTTP/1.0\r\n\r\n"

PATHS = (
    *("/", "/current", "/next", "/previous", "/reset", "/history", "/livez", "/readyz"),
    *("/metrics", "/openapi.json", "/nothing", "//next", "/next/", "/%6eext", "/Next"),
    *("/current?x=1", "/next?x=1", "/livez?verbose", "/readyz?verbose", "*", "/current#a"),
    *("http://localhost/current", "http://localhost", "/history?limit=2", "/current/.."),
)
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"),
    *("get", "BREW"),
)
ACCEPTS = (
    *("*/*", "text/plain", "application/json", "text/html", "", "image/png"),
    *("application/problem+json", "application/*", "text/*;q=0.5, application/json"),
    *("application/json;q=0", "application/json;q=0.1, text/plain;q=0.2", "a/b;q=x"),
    *("application/json; charset=utf-8", "text/html, application/json", "json", ",,"),
)
TAGS = (
    *('"REVISION"', '"REVISION-json"', 'W/"REVISION"', '"0"', "*", '"1", "REVISION"'),
    *("REVISION", '"', '"REVISION', '"1" "2"', "", ",", '"a,b", "REVISION"', "'1'"),
    *('"REVISION-html"', 'w/"1"', '"REVISION" , ', '"REVISION";x'),
)
CURSOR_PATHS = ("/current", "/next", "/previous", "/reset", "/history?limit=1")
QUERIES = (
    *("limit=0", "limit=1", "limit=1000", "limit=1001", "limit=x", "limit=", "limit"),
    *("limit=-1", "limit=%31", "limit=1&limit=2", "limit=+1", "limit= 1", "limit=1.0"),
    *("before=0", "before=1", "before=2&limit=3", "before=x", "before=99999999999999999"),
    *("before=999999999999999999999", "limit=2&before=REVISION", "Limit=1", "x=%zz"),
    *("limit=00000000000000000001", "limit=1;before=2", "&&limit=1", "limit=\xb2"),
)
KEYS = ("k", "k" * 255, "k" * 256, "", "a b", "a,b", '"quoted"', "\xe9", "~!@#$%^&*()")
BROWSERS = (
    ("Sec-Fetch-Site: same-origin",),
    ("Sec-Fetch-Site: none",),
    ("Sec-Fetch-Site: same-site",),
    ("Sec-Fetch-Site: cross-site",),
    ("Sec-Fetch-Site: cross-site", "Origin: https://a.example"),
    ("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"),
    ("Origin: http://localhost",),
    ("Origin: https://a.example",),
    ("Origin: https://b.example",),
    ("Origin: null",),
    ("Origin: https://a.example", "Origin: https://b.example"),
    ("Sec-Purpose: prefetch",),
    ("Sec-Purpose: prefetch;prerender",),
    ("Purpose: prefetch",),
    ("X-Moz: prefetch",),
)
#: Headers that the service has no use for.
OTHERS = (
    *("User-Agent: curl/8", "X-Request-ID: 1", "Cookie: a=b", "Range: bytes=0-0"),
    *("Accept-Encoding: gzip", "Cache-Control: no-cache", "X-Forwarded-For: 1.2.3.4"),
    *("Upgrade: h2c", "Authorization: Bearer x", "If-Modified-Since: x", "TE: trailers"),
    *('If-Range: "1"', "Referer: http://x/", "Accept-Language: de", "Via: 1.1 x"),
    *(
        "Content-Type: application/json",
        "X: " + "y" * 3000,
        "Access-Control-Request-Method: POST",
    ),
)
CONNECTIONS = (
    *("close", "keep-alive", "Close", "Foo, Close", "upgrade", "Keep-Alive", "", "a b"),
    *("close, keep-alive", "keep-alive, close"),
)
HOSTS = (
    *("localhost", "localhost:8081", "LOCALHOST", "localhost.", "127.0.0.1", "[::1]:8081"),
    *("a.localhost", "attacker.example", "", "a..b", "xn--zz", "%41:80", "x" * 300),
    *("localhost:", "localhost:x", "user@localhost", "a b", "10.0.0.1", "::1"),
)


BODIES = {
    "none": b"\r\n",
    "a length": b"Content-Length: 5\r\n\r\n12345",
    "the largest": b"Content-Length: 65536\r\n\r\n" + b"x" * 65536,
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
}
#: Refused requests whose refusal is compared as JSON too.
AS_JSON = (
    *("two Hosts", "folded", "a null in a value", "a plus", "65537", "5000 digits"),
    *("a space before the colon", "a long header", "two long headers"),
)


def request(
    line: str, *headers: str, host: str | None = "localhost", version: str = "1.1"
) -> bytes:
    """
    Return a request without its body.
    """
    hosts = [] if host is None else [f"Host: {host}"]
    lines = [f"{line} HTTP/{version}", *hosts, *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def twice(name: str, sent: bytes) -> Case:
    """
    Return a case with one request two times, and the end.
    """
    target = sent.split(b" ", 2)[1]
    opaque = target in (b"/metrics", b"/openapi.json") or (
        target in (b"/", b"http://localhost") and b"\r\nAccept: text/" in sent
    )
    return Case(name, (sent, sent, LAST), opaque=opaque)


def plain() -> Iterator[Case]:
    """
    Yield cases of every method, path, version and representation.
    """
    for path, method in product(PATHS, METHODS):
        line = f"{method} {path}"
        yield twice(line, request(line))
        yield twice(f"{line} as JSON", request(line, "Accept: application/json"))
    for path, method in product(PATHS, ("GET", "POST")):
        line = f"{method} {path}"
        yield twice(f"{line} 1.0", request(line, version="1.0", host=None))
        kept = request(line, "Connection: keep-alive", version="1.0")
        yield twice(f"{line} 1.0 kept", kept)
    paths = ("/", *CURSOR_PATHS, "/livez", "/nothing", "/metrics")
    for path, method in product(paths, ("GET", "POST", "HEAD")):
        line = f"{method} {path}"
        for accept in ACCEPTS:
            yield twice(f"{line} Accept: {accept}", request(line, f"Accept: {accept}"))
        two = request(line, "Accept: text/plain", "Accept: application/json")
        yield twice(f"{line} two Accepts", two)


def conditional() -> Iterator[Case]:
    """
    Yield cases with preconditions.
    """
    paths = ("/", *CURSOR_PATHS, "/livez")
    names = ("If-Match", "If-None-Match")
    for path, method, name, tag in product(paths, ("GET", "POST", "HEAD"), names, TAGS):
        sent = request(f"{method} {path}", f"{name}: {tag}")
        yield twice(f"{method} {path} {name}: {tag}", sent)
    both = product(('"REVISION"', '"0"'), repeat=2)
    accepts = ("text/plain", "application/json")
    for path, (first, second), accept in product(CURSOR_PATHS, list(both), accepts):
        headers = (f"If-Match: {first}", f"If-None-Match: {second}")
        sent = request(f"POST {path}", *headers, f"Accept: {accept}")
        yield twice(f"POST {path} {headers} as {accept}", sent)


def keyed() -> Iterator[Case]:
    """
    Yield cases with idempotency keys, and with query parameters.
    """
    for key, path in product(KEYS, CURSOR_PATHS):
        sent = request(f"POST {path}", f"Idempotency-Key: {key}")
        yield twice(f"POST {path} Idempotency-Key: {key}", sent)
    for path, method in product(CURSOR_PATHS, ("POST", "GET")):
        headers = (f"Idempotency-Key: of{path}", "Accept: application/json")
        yield twice(f"{method} {path} {headers}", request(f"{method} {path}", *headers))
    used = request("POST /next", "Idempotency-Key: other")
    reused = request("POST /reset", "Idempotency-Key: other")
    yield Case("a key for another endpoint", (used, reused, used, LAST))
    two = request("POST /next", "Idempotency-Key: 1", "Idempotency-Key: 2")
    yield twice("two keys", two)
    unmet = request("POST /next", "Idempotency-Key: unmet", 'If-Match: "0"')
    yield twice("a key and a precondition that fails", unmet)
    met = request("POST /next", "Idempotency-Key: met", 'If-Match: "REVISION"')
    yield twice("a key and a precondition", met)
    for query, accept in product(QUERIES, ("text/plain", "application/json")):
        sent = request(f"GET /history?{query}", f"Accept: {accept}")
        yield twice(f"/history?{query} as {accept}", sent)


def browsers() -> Iterator[Case]:
    """
    Yield cases with headers that browsers send by themselves.
    """
    paths = ("/next", "/current", "/events", "/")
    for path, method, headers in product(paths, ("GET", "POST", "OPTIONS"), BROWSERS):
        # A GET of /events would be a stream, without an end.
        if (path, method) != ("/events", "GET"):
            sent = request(f"{method} {path}", *headers)
            yield twice(f"{method} {path} {', '.join(headers)}", sent)
    for path in paths:
        asks = ("Origin: https://a.example", "Access-Control-Request-Method: POST")
        yield twice(f"OPTIONS {path} preflight", request(f"OPTIONS {path}", *asks))


def heads() -> Iterator[Case]:
    """
    Yield cases with headers that decide nothing, that keep a connection or not, and Hosts.
    """
    for header, line in product(OTHERS, ("GET /current", "POST /next")):
        yield twice(f"{line} {header[:40]}", request(line, header))
    lines = ("GET /current", "POST /next", "GET /nothing", "HEAD /current")
    for value, version, line in product(CONNECTIONS, ("1.0", "1.1"), lines):
        sent = request(line, f"Connection: {value}", version=version)
        yield twice(f"{line} {version} Connection: {value}", sent)
    for host, line in product(HOSTS, ("GET /current", "POST /next")):
        yield twice(f"{line} Host: {host[:40]}", request(line, host=host))


def pipelines() -> Iterator[Case]:
    """
    Yield cases of many requests on one connection, whole and in pieces.
    """
    step, look = request("POST /next"), request("GET /current")
    mixed = [
        step,
        look,
        request("GET /current", "Accept: application/json"),
        request("HEAD /current"),
        request("POST /next", "Content-Length: 3") + b"abc",
        request("GET /nothing"),
        request("POST /next", 'If-Match: "0"'),
        request("GET /current", 'If-None-Match: "REVISION"'),
        request("OPTIONS /next"),
        request("POST /next", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
        request("GET /history?limit=2"),
        request("POST /previous", "Idempotency-Key: pipelined"),
        request("POST /reset"),
    ]
    yield Case("a pipeline of everything", (b"".join([*mixed, LAST]),))
    yield Case("everything, one by one", (*mixed, LAST))
    for number, piece in enumerate(mixed):
        yield Case(f"a pipeline that begins with {number}", (piece + look + step + LAST,))
        yield Case(f"a pipeline with {number} behind", (step + step, look + piece + LAST))
        yield Case(f"{number}, and the client leaves", (piece + step,), leaves=True)
        yield Case(f"{number} behind a refusal", (b"nonsense\r\n\r\n" + piece + LAST,))
    yield Case("a long pipeline", ((step + look) * 200 + LAST,))
    two = request("POST /next", "Accept: */*") + request("GET /current", version="1.0")
    for cut in range(1, len(two)):
        yield Case(f"two, cut at {cut}", (two[:cut], two[cut:]))
    yield Case("byte by byte", tuple(bytes([byte]) for byte in two))


def bodies() -> Iterator[Case]:
    """
    Yield cases with bodies of requests, and with streams.
    """
    for name, rest in BODIES.items():
        yield twice(f"body: {name}", b"POST /next HTTP/1.1\r\nHost: localhost\r\n" + rest)
    expects = request("POST /next", "Expect: 100-continue", "Content-Length: 2")
    yield Case("expects, and sends", (expects, b"ab", LAST))
    yield Case("expects, and sends at once", (expects + b"ab" + LAST,))
    step = request("POST /next")
    for last_id, accept in product(("", "x", "0"), ("text/event-stream", "text/html")):
        headers = (f"Last-Event-ID: {last_id}", f"Accept: {accept}")
        sent = request("GET /events", *headers)
        yield Case(f"a stream {headers}", (step, sent), until=b"}\n\n")
    known = request("GET /events", "Last-Event-ID: REVISION")
    yield Case("a stream that is known so far", (known,), until=b"\n\n")
    for method in ("HEAD", "POST", "OPTIONS"):
        yield twice(f"{method} /events", request(f"{method} /events"))


def malformed() -> Iterator[Case]:
    """
    Yield cases from the table of attacks.
    """
    for attack in PROMPT:
        opaque = b"/metrics" in attack.sent or b"/openapi.json" in attack.sent
        chunks = tuple(whole(attack))
        # To one of the attacks the service answers with a stream, which has no end.
        until = b"}\n\n" if b"GET /events " in attack.sent else None
        name, leaves = f"attack: {attack.name}", attack.leaves
        yield Case(name, chunks, leaves=leaves, until=until, opaque=opaque)
        if attack.name in AS_JSON:
            as_json = attack.sent.replace(b"\r\n", b"\r\nAccept: application/json\r\n", 1)
            yield Case(f"attack as JSON: {attack.name}", (as_json + request("POST /next"),))


def few() -> Iterator[Case]:
    """
    Yield a little of everything, for ways to start that do not look at requests.
    """
    for case in chain(plain(), heads(), pipelines(), bodies()):
        if hash_of(case.name) % 29 == 0:
            yield case


def hash_of(name: str) -> int:
    """
    Return a number that is the same in every process.
    """
    return sum(map(ord, name))
