"""
The headers of browsers about a request, and those that its answer must have.

A browser sends requests for any page that its user looks at.  It says so in headers that no
page can write, and the rule is that of Go's C{CrossOriginProtection}, here for every
request that moves the cursor, whatever its method: C{Sec-Fetch-Site} decides where a
browser sends it; otherwise C{Origin} must name the host that the request went to.  Schemes
are not compared, since a proxy may speak TLS.  Clients that are no browsers send neither
and are not concerned.

Everything here is a function of header values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pexservice.web.problems import Problem, cross_origin
from pexservice.web.responses import Header

_EXPOSED = (
    b"ETag, Idempotency-Replayed, Link, Pex-Position, Pex-Revision, Retry-After,"
    b" WWW-Authenticate"
)
_ACCEPTED = (
    b"Accept, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match,"
    b" Last-Event-ID"
)

#: How long a browser may remember a preflight's answer.  Seconds.
_PREFLIGHT_AGE = b"600"

# Browsers leave the port out where it is the scheme's.
_ORIGIN = re.compile(rb"https?://([^/?#@]+)", re.IGNORECASE)
_USUAL_PORT = re.compile(rb":(?:80|443)?\Z")

_NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
_SAME_ORIGIN = (b"Cross-Origin-Resource-Policy", b"same-origin")
_VARY = (b"Vary", b"Origin")


def elements(values: Sequence[bytes]) -> list[bytes]:
    """
    Return the elements of a list header, from all its lines.
    """
    return [each.strip(b" \t") for value in values for each in value.split(b",")]


def _authority(host: bytes) -> bytes:
    return _USUAL_PORT.sub(b"", host).lower()


def same_host(origin: bytes, host: bytes | None) -> bool:
    """
    Return whether C{origin} is an origin of the host and port in C{Host}.
    """
    found = _ORIGIN.fullmatch(origin)
    return (
        found is not None and host is not None and _authority(found[1]) == _authority(host)
    )


class CrossSitePolicy:
    """
    The rules on which web pages may use the service.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """
        @param allowed: the origins whose pages may use it, besides the service's own.
        """
        here = (_NOSNIFF, _SAME_ORIGIN)
        self._headers = {
            each.encode(): (
                _NOSNIFF,
                _VARY,
                (b"Access-Control-Allow-Origin", each.encode()),
                (b"Access-Control-Expose-Headers", _EXPOSED),
            )
            for each in allowed
        }
        self._other_headers = (*here, _VARY) if self._headers else here

    def _allowed(self, origins: Sequence[bytes]) -> bool:
        return len(origins) == 1 and origins[0] in self._headers

    def check(
        self,
        deed: str,
        host: bytes | None,
        origins: Sequence[bytes],
        sites: Sequence[bytes],
    ) -> Problem | None:
        """
        Return 403 if a request comes from a page of another origin.

        @param deed: what the request would do, for the words of the answer.
        @param host: the value of C{Host}, if it has one.
        @param origins: the values of C{Origin}.
        @param sites: the values of C{Sec-Fetch-Site}.  Of several each counts: the sender
            that added one knew something.
        """
        if not (origins or sites) or self._allowed(origins):
            return None
        if sites:
            own = all(each in (b"same-origin", b"none") for each in elements(sites))
        else:
            own = all(same_host(each, host) for each in elements(origins))
        return None if own else cross_origin(deed)

    def answer_headers(self, origins: Sequence[bytes]) -> tuple[Header, ...]:
        """
        Return the headers that every answer must have for browsers, whatever the answer is.

        @param origins: the values of the request's C{Origin}; none for a request that was
            not understood.
        """
        if not self._allowed(origins):
            return self._other_headers
        return self._headers[origins[0]]

    def preflight_headers(
        self, origins: Sequence[bytes], allow: bytes, *, asks: bool
    ) -> tuple[Header, ...]:
        """
        Return the headers of the answer to a preflight.

        That is an C{OPTIONS} by which a browser asks before it sends a request of another
        origin's page.

        @param allow: the methods that the path takes.
        @param asks: whether there is an C{Access-Control-Request-Method}.
        """
        if not (asks and self._allowed(origins)):
            return ()
        return (
            (b"Access-Control-Allow-Methods", allow),
            (b"Access-Control-Allow-Headers", _ACCEPTED),
            (b"Access-Control-Max-Age", _PREFLIGHT_AGE),
        )


def is_ahead(values: Sequence[bytes]) -> bool:
    """
    Return whether a browser marked a request as sent ahead of its user.

    @param values: the values of all L{PURPOSES<pexservice.web.parameters.PURPOSES>}, as
        C{prefetch;prerender} or C{preview}.
    """
    return any(each.lower().startswith(b"pre") for each in elements(values))
