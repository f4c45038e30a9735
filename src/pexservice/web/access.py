"""
Access to the cursor: the tokens that may move it, and the rules for web pages.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from twisted.logger import Logger

from pexservice.process.exit_status import Misconfigured, cannot_use
from pexservice.web.cross_site import CrossSitePolicy
from pexservice.web.parameters import (
    AUTHORIZATION,
    HOST,
    ORIGIN,
    SEC_FETCH_SITE,
    Arguments,
)
from pexservice.web.problems import Problem, no_token, wrong_token

_log = Logger()

#: RFC 6750's b64token.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class BadTokens(Misconfigured):
    """
    A token file that is not valid.

    The message names the file, and the line if one is to blame.
    """

    __module__ = "pexservice"


def read_tokens(path: str) -> frozenset[bytes]:
    """
    Return the tokens in C{path}, one a line.

    Empty lines and lines that begin with C{#} are passed over.

    @return: their SHA-256 digests: a token itself is not kept.
    @raise BadTokens: a line is no token, or there is no token.
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


class Access:
    """
    The rules on which tokens may move the cursor and which web pages may use the service.

    @ivar pages: the rules for web pages.
    """

    def __init__(
        self, tokens: frozenset[bytes] | None = None, origins: Collection[str] = ()
    ) -> None:
        """
        Make the rules for C{tokens} and C{origins}.

        @param tokens: digests of the tokens that may move the cursor; C{None} when every
            client may.
        @param origins: the origins whose pages may use the API.
        """
        self._tokens = tokens
        self.pages = CrossSitePolicy(origins)

    def check_page(self, deed: str, arguments: Arguments) -> Problem | None:
        """
        Return 403 if a request comes from a page of another origin.

        @param deed: what the request would do, for the words of the answer.
        """
        sites, origins = arguments.get(SEC_FETCH_SITE, ()), arguments.get(ORIGIN, ())
        if not (sites or origins):
            return None
        host = arguments.get(HOST, (None,))[0]
        return self.pages.check(deed, host, origins, sites)

    def check_token(self, arguments: Arguments) -> Problem | None:
        """
        Return 401 if a request has no token that may move the cursor.
        """
        if self._tokens is None:
            return None
        given = arguments.get(AUTHORIZATION, ())
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            return no_token()
        digest, found = sha256(token.strip()).digest(), False
        # All of them, whichever matches: the time it takes tells nothing.
        for each in self._tokens:
            found |= compare_digest(digest, each)
        return None if found else wrong_token()
