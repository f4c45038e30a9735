"""
The ways to start the service that the oracle compares, and the cases that it tries on each.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product
from pathlib import Path

import trustme

from tests.support import corpus
from tests.support.corpus import BROWSERS, few, hash_of, request, twice
from tests.support.installation import RELEASE_STORE
from tests.support.oracle import Case, Setup


class _Proxied:
    """
    Requests through a trusted proxy, each of another client.

    They need that because each client has one request a second.
    """

    def __init__(self) -> None:
        self._clients = (
            f"X-Forwarded-For: 198.18.{number // 250}.{number % 250}" for number in count()
        )

    def request(self, line: str, *headers: str, version: str = "1.1") -> bytes:
        """
        Return a request of a client that has sent none.
        """
        return request(line, *headers, next(self._clients), version=version)

    def twice(self, line: str, *headers: str) -> Case:
        """
        Return a case with the same request of two clients, and the end.
        """
        return Case(
            f"{line} {headers}",
            (self.request(line, *headers), self.request(line, *headers), self.last()),
        )

    def last(self) -> bytes:
        """
        Return a request that ends the connection, and does nothing else.
        """
        return self.request("GET /livez", version="1.0")


def guarded() -> Iterator[Case]:
    """
    Yield cases with tokens, an allowed origin, clients behind a proxy and their rate.
    """
    proxied = _Proxied()
    right = "Authorization: Bearer secret"
    tokens: tuple[tuple[str, ...], ...] = (
        *(
            (),
            (right,),
            ("Authorization: bearer secret",),
            ("Authorization: Bearer wrong",),
        ),
        *(("Authorization: Basic c2VjcmV0",), (right, right), ("Authorization:",)),
        *(("Authorization: Bearer  secret ",), ("Authorization: Bearersecret",)),
    )
    lines = [
        f"{method} {path}"
        for path in ("/next", "/current", "/nothing")
        for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT")
    ]
    for line, token in product(lines, tokens):
        yield proxied.twice(line, *token)
        yield proxied.twice(line, *token, "Accept: application/json")
    paths = ("/next", "/current", "/livez")
    for path, method, headers in product(paths, ("GET", "POST", "OPTIONS"), BROWSERS):
        line = f"{method} {path}"
        yield proxied.twice(line, right, *headers)
        yield proxied.twice(line, "Access-Control-Request-Method: POST", *headers)
    conditions = ('If-Match: "0"', 'If-None-Match: "REVISION"', "Idempotency-Key: guarded")
    lines = ["POST /next", "GET /current"]
    for condition, token, line in product(conditions, ((), (right,)), lines):
        yield proxied.twice(line, *token, condition, "Origin: https://a.example")
    for headers in (
        ("User-Agent: a b", "Referer: http://x/"),
        ('User-Agent: a"b\\c',),
        ("User-Agent: \xe9",),
    ):
        for line in ("GET /current", 'POST /next?a="b'):
            yield proxied.twice(line, right, *headers)


def limited() -> Iterator[Case]:
    """
    Yield cases of clients that ask too often.
    """
    lines = ("GET /current", "POST /next", "GET /nothing", "OPTIONS /next")
    extras = ("X: y", "Accept: application/json", "Origin: https://a.example")
    for number, (line, extra) in enumerate(product(lines, extras)):
        client = f"X-Forwarded-For: 198.51.100.{number}"
        sent = request(line, "Authorization: Bearer secret", extra, client)
        last = request("GET /livez", f"X-Forwarded-For: 203.0.113.{number}", version="1.0")
        yield Case(f"{line} {extra} too often", (sent * 4, last))
    for number, forwarded in enumerate(
        ("1.2.3.4, 198.19.0.1", "198.19.0.2, 127.0.0.1", "2001:db8::1", "x")
    ):
        sent = request("GET /current", f"X-Forwarded-For: {forwarded}")
        last = request("GET /livez", f"X-Forwarded-For: 203.0.112.{number}", version="1.0")
        yield Case(f"X-Forwarded-For: {forwarded} too often", (sent * 4, last))


def prepare_guarded(path: Path) -> None:
    """
    Write a token file.
    """
    (path / "tokens").write_text("# these\nsecret\nother==\n")
    (path / "tokens").chmod(0o600)


def prepare_tls(path: Path) -> None:
    """
    Write a certificate that no authority has signed.
    """
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(path / "key.pem")
    (path / "certificate.pem").write_bytes(
        b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    )
    (path / "key.pem").chmod(0o600)


def prepare_store(path: Path) -> None:
    """
    Put the frozen store where the daemon looks for one.
    """
    store = path / "pexservice-data"
    store.mkdir(mode=0o700)
    (store / "data.mdb").write_bytes((RELEASE_STORE / "data.mdb").read_bytes())
    (store / "data.mdb").chmod(0o600)


def at_a_large_position() -> Iterator[Case]:
    """
    Yield cases with long values, and keys and a history that the last release wrote.
    """
    for accept in ("text/plain", "application/json"):
        for line in ("GET /current", "GET /history?limit=1000", "HEAD /current"):
            yield twice(f"{line} {accept}", request(line, f"Accept: {accept}"))
        for key in ("first", "second", "key-1", "key-40", "key-41"):
            for path in ("/next", "/reset"):
                headers = (f"Idempotency-Key: {key}", f"Accept: {accept}")
                sent = request(f"POST {path}", *headers)
                yield twice(f"{path} {headers}", sent)
    yield from few()


def setups() -> tuple[Setup, ...]:
    """
    Return all setups that are compared.
    """
    understood = [
        *(*corpus.plain(), *corpus.conditional(), *corpus.keyed(), *corpus.browsers()),
        *(*corpus.heads(), *corpus.pipelines(), *corpus.bodies()),
    ]
    malformed = list(corpus.malformed())
    half = [setup for setup in understood if hash_of(setup.name) % 2]
    return (
        Setup("supervised", [*understood, *malformed]),
        # On Twisted's own reactor.
        Setup("a worker", [*half, *malformed], command="pexservice-worker"),
        Setup(
            "guarded",
            [*guarded(), *limited()],
            (
                *("--token-file", "tokens", "--cors-origin", "https://a.example"),
                *("--rate-limit", "1", "--trusted-proxy", "127.0.0.1"),
                *("--access-log", "access.log", "--journal", "50"),
            ),
            secret=b"Authorization: Bearer other==",
            proxied=True,
            prepare=prepare_guarded,
        ),
        Setup(
            "over TLS",
            list(few()),
            ("--tls-certificate", "certificate.pem", "--tls-key", "key.pem"),
            prepare=prepare_tls,
        ),
        Setup(
            "through a Unix socket",
            list(few()),
            ("--listen", "unix:socket", "--synchronous-commit", "off"),
        ),
        Setup("an old store", list(at_a_large_position()), prepare=prepare_store),
    )
