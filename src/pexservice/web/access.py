"""
Who may move the cursor: tokens, browsers' origins, and requests nobody meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from twisted.logger import Logger
from twisted.web.iweb import IRequest

from pexservice.web.problems import no_token, not_on_purpose, wrong_token
from pexservice.web.replies import Header

_log = Logger()

#: RFC 6750's b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

_EXPOSED = (
    b"ETag, Idempotency-Replayed, Link, Pex-Position, Pex-Revision, Retry-After,"
    b" WWW-Authenticate"
)
_ACCEPTED = (
    b"Accept, Authorization, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID"
)

#: How long a browser may remember a preflight's answer.  Seconds.
_PREFLIGHT_AGE = b"600"


class BadTokens(Exception):
    """
    The token file is not one.  The message names it and the line.
    """


def read_tokens(path: str) -> frozenset[bytes]:
    """
    The tokens in C{path}, one a line; empty lines and lines that begin with C{#}
    are passed over.

    @return: their SHA-256 digests: a token itself is not kept.
    @raise BadTokens: there is no such file, or a line is no token, or none is there.
    """
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        raise BadTokens(f"the token file {path} is not plain ASCII") from None
    except OSError as error:
        raise BadTokens(f"the token file {path}: {error.strerror}") from error
    tokens = set()
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not _TOKEN.fullmatch(token):
            raise BadTokens(
                f"the token file {path}, line {number}: a token is made of letters,"
                " digits and ._~+/- and ends in any number of ="
            )
        tokens.add(sha256(token.encode()).digest())
    if not tokens:
        raise BadTokens(f"the token file {path} has no token, so nobody could move")
    if Path(path).stat().st_mode & 0o004:
        _log.warn("the token file {path} can be read by everybody", path=path)
    return frozenset(tokens)


def _values(request: IRequest, name: bytes) -> list[bytes]:
    """
    The elements of the header C{name}, from all its lines.
    """
    lines = request.requestHeaders.getRawHeaders(name, [])
    return [element.strip() for line in lines for element in line.split(b",")]


class Access:
    """
    The rules of one worker.
    """

    def __init__(
        self, tokens: frozenset[bytes] | None = None, origins: Iterable[str] = ()
    ) -> None:
        """
        @param tokens: digests of those that may move the cursor; L{None} when
            everybody may.
        @param origins: the origins whose pages may use the API.
        """
        self._tokens = tokens
        self._origins = frozenset(origin.encode() for origin in origins)

    def counts(self, *, move: bool) -> bool:
        """
        Does who sends a request make a difference?
        """
        return bool(self._origins) or (move and self._tokens is not None)

    def _origin(self, request: IRequest) -> bytes | None:
        values = _values(request, b"origin")
        return values[0] if len(values) == 1 and values[0] in self._origins else None

    def check_move(self, request: IRequest) -> None:
        """
        @raise Problem: this request may not move the cursor.
        """
        if request.method == b"GET":
            self._check_purpose(request)
        if self._tokens is not None:
            self._check_token(request, self._tokens)

    def _check_purpose(self, request: IRequest) -> None:
        # Of several values each counts: whoever added one knew something.
        sites = _values(request, b"sec-fetch-site")
        if b"cross-site" in sites and self._origin(request) is None:
            raise not_on_purpose("from another site")
        for name in (b"sec-purpose", b"purpose", b"x-moz"):
            # "prefetch", "prefetch;prerender", "preview"
            if any(value.lower().startswith(b"pre") for value in _values(request, name)):
                raise not_on_purpose("as a prefetch")

    def _check_token(self, request: IRequest, tokens: frozenset[bytes]) -> None:
        given = request.requestHeaders.getRawHeaders(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            raise no_token()
        digest = sha256(token.strip()).digest()
        # All of them, whichever matches: the time it takes tells nothing.
        if not sum(compare_digest(digest, each) for each in tokens):
            raise wrong_token()

    def headers(self, request: IRequest) -> list[Header]:
        """
        What an answer to C{request}, whatever it is, must tell a browser.
        """
        if not self._origins:
            return []
        headers = [(b"Vary", b"Origin")]
        origin = self._origin(request)
        if origin is not None:
            headers += [
                (b"Access-Control-Allow-Origin", origin),
                (b"Access-Control-Expose-Headers", _EXPOSED),
            ]
        return headers

    def preflight_headers(self, request: IRequest, allowed: bytes) -> list[Header]:
        """
        What the answer to an C{OPTIONS} must tell a browser that asks before it
        sends a request of another origin's page.
        """
        asks = request.getHeader(b"access-control-request-method") is not None
        if not asks or self._origin(request) is None:
            return []
        return [
            (b"Access-Control-Allow-Methods", allowed),
            (b"Access-Control-Allow-Headers", _ACCEPTED),
            (b"Access-Control-Max-Age", _PREFLIGHT_AGE),
        ]
