"""
Access to the cursor: the tokens that may move it, and the rules for web pages.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from twisted.logger import Logger
from twisted.web.iweb import IRequest

from pexservice.process.exit_status import Misconfigured, cannot_use
from pexservice.web.cross_site import PURPOSES, CrossSitePolicy, check_purpose
from pexservice.web.problems import Problem, no_token, wrong_token
from pexservice.web.replies import Header

_log = Logger()

#: RFC 6750's b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class BadTokens(Misconfigured):
    """
    The token file is not one; the message names it and the line.
    """

    __module__ = "pexservice"


def read_tokens(path: str) -> frozenset[bytes]:
    """
    The tokens in C{path}, one a line; empty lines and lines that begin with C{#}
    are passed over.

    @return: their SHA-256 digests: a token itself is not kept.
    @raise BadTokens: a line is no token, or none is there.
    @raise CannotStart: the file cannot be read.
    """
    try:
        lines = Path(path).read_text("ascii").splitlines()
    except UnicodeDecodeError:
        raise BadTokens(f"the token file {path} is not plain ASCII") from None
    except OSError as error:
        raise cannot_use(f"the token file {path}", error) from error
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


def check_token(authorization: Sequence[bytes], tokens: frozenset[bytes]) -> Problem | None:
    """
    Return 401 if a request may not move the cursor.

    @param authorization: the values of its C{Authorization}.
    @param tokens: SHA-256 digests of those that may.
    """
    given = authorization[0] if len(authorization) == 1 else b""
    scheme, _, token = given.partition(b" ")
    if scheme.lower() != b"bearer":
        return no_token()
    digest = sha256(token.strip()).digest()
    # All of them, whichever matches: the time it takes tells nothing.
    if not sum(compare_digest(digest, each) for each in tokens):
        return wrong_token()
    return None


class Access:
    """
    The rules of one worker.

    @ivar pages: those for web pages.
    """

    def __init__(
        self, tokens: frozenset[bytes] | None = None, origins: Collection[str] = ()
    ) -> None:
        """
        @param tokens: digests of those that may move the cursor; L{None} when
            everybody may.
        @param origins: the origins whose pages may use the API.
        """
        self._tokens = tokens
        self.pages = CrossSitePolicy(origins)
        self._named_origins = bool(origins)

    def counts(self, *, move: bool) -> bool:
        """
        Return whether the sender of a request makes a difference to its answer.
        """
        return self._named_origins or (move and self._tokens is not None)

    def check_move(self, request: IRequest) -> None:
        """
        @raise Problem: this request may not move the cursor.
        """
        raw = request.requestHeaders.getRawHeaders
        purposes = [value for name in PURPOSES for value in raw(name, ())]
        problem = self._check_page(request, "move the cursor") or check_purpose(purposes)
        if problem is None and self._tokens is not None:
            problem = check_token(raw(b"authorization", ()), self._tokens)
        if problem is not None:
            raise problem

    def check_watch(self, request: IRequest) -> None:
        """
        @raise Problem: this request may not take a stream of events.
        """
        problem = self._check_page(request, "watch the cursor")
        if problem is not None:
            raise problem

    def _check_page(self, request: IRequest, deed: str) -> Problem | None:
        raw = request.requestHeaders.getRawHeaders
        host = raw(b"host", (None,))[0]
        return self.pages.check(deed, host, raw(b"origin", ()), raw(b"sec-fetch-site", ()))

    def headers(self, request: IRequest) -> tuple[Header, ...]:
        """
        Return what an answer to C{request}, whatever it is, must tell a browser.
        """
        return self.pages.answer_headers(
            request.requestHeaders.getRawHeaders(b"origin", ())
        )

    def preflight_headers(self, request: IRequest, allow: bytes) -> tuple[Header, ...]:
        """
        Return what the answer to an C{OPTIONS} must tell a browser.
        """
        headers = request.requestHeaders
        return self.pages.preflight_headers(
            headers.getRawHeaders(b"origin", ()),
            allow,
            asks=headers.hasHeader(b"access-control-request-method"),
        )
