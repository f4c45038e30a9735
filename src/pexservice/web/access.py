"""
The rules on who may use the cursor: tokens, the pages of web browsers, and host names.

A web page can make the browser of its user send requests to this service.  The browser adds
headers that the page cannot set.  They show whether a page of another origin has sent the
request.  If such a page requests a step or C{/events}, the service refuses.  The
rule is that of Go's C{CrossOriginProtection}:

  1. If the request has C{Sec-Fetch-Site}, the value must be C{same-origin} or C{none}.
  2. Otherwise, if the request has C{Origin}, the value must have the host of the request.
     Schemes are not compared, because a proxy in front of the service may speak TLS.
  3. A request with neither header passes: it usually does not come from a browser.

C{--cors-origin} exempts an origin from this rule.  Two attacks pass the rule.

In the first attack, a page shows an image whose URL is a step, so the browser sends a GET.
If the service is on another machine and speaks plain HTTP, browsers send neither header
with this GET.  C{--post-only} stops this attack.

The second attack is DNS rebinding.  After a browser has loaded a page from
attacker.example, the owner of this name can let it resolve to 127.0.0.1.  For the browser,
the service then has the origin of the page, so the page may send steps and read responses.
Only the name in C{Host} shows the attack.  So if steps need no token, a request over
loopback must have a C{Host} that no attacker can own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from twisted.logger import Logger

from pexservice.core.text import read_small_file
from pexservice.process.exit_status import Misconfigured, cannot_use
from pexservice.web import problems
from pexservice.web.clients import Peer
from pexservice.web.parameters import (
    AUTHORIZATION,
    HOST,
    ORIGIN,
    REQUEST_METHOD,
    SEC_FETCH_SITE,
    RequestHeaders,
    list_elements,
)
from pexservice.web.responses import Header

_log = Logger()

#: RFC 6750's b64token.
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

#: The headers of a response that a page of an allowed origin may read.
_EXPOSED_HEADERS = (
    b"ETag, Idempotency-Replayed, Link, Pex-Position, Pex-Revision, Retry-After,"
    b" WWW-Authenticate"
)
#: The headers of a request that a page of an allowed origin may set.
_ACCEPTED_HEADERS = (
    b"Accept, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match,"
    b" Last-Event-ID"
)

#: How long a browser may remember the response to a preflight request.
_PREFLIGHT_SECONDS = b"600"

_HTTP_ORIGIN = re.compile(rb"https?://([^/?#@]+)", re.IGNORECASE)
# Browsers leave out a default port, so it is removed before two hosts are compared.
_DEFAULT_PORT = re.compile(rb":(?:80|443)?\Z")
_ANY_PORT = re.compile(rb":[0-9]*\Z")

_NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
_SAME_ORIGIN = (b"Cross-Origin-Resource-Policy", b"same-origin")
_VARY = (b"Vary", b"Origin")

#: The value of C{--allowed-host} that switches the check of C{Host} off.
ANY_HOST = "*"

#: How many refused host names are logged.  Clients choose these names, so a client could
#: fill the log without this limit.
MAX_LOGGED_HOSTS = 100


class BadTokens(Misconfigured):
    """
    The token file is not valid.  The message names the file, and the line if one is wrong.
    """

    __module__ = "pexservice"


def read_tokens(path: str) -> frozenset[bytes]:
    """
    Return the SHA-256 digests of the tokens in the file C{path}.

    Each line has one token.  Empty lines, and lines that begin with C{#}, are skipped.

    @raise BadTokens: a line is not a token, or the file has no token.
    @raise CannotStart: the file cannot be read.
    """
    try:
        lines = read_small_file(path).decode("ascii").splitlines()
        mode = Path(path).stat().st_mode
    except UnicodeDecodeError:
        raise BadTokens(f"the token file {path} is not plain ASCII") from None
    except OSError as error:
        raise cannot_use(f"the token file {path}", error) from error
    tokens = set()
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not _BEARER_TOKEN.fullmatch(token):
            raise BadTokens(
                f"the token file {path}, line {number}: a token is made of letters,"
                " digits and ._~+/- and ends in any number of ="
            )
        tokens.add(sha256(token.encode()).digest())
    if not tokens:
        raise BadTokens(f"the token file {path} has no token, so nobody could make a step")
    if mode & 0o004:
        _log.warn("every user can read the token file {path}; run chmod o-r", path=path)
    return frozenset(tokens)


def same_host(origin: bytes, host: bytes | None) -> bool:
    """
    Return whether C{origin} is an origin of the host and port in C{Host}.
    """
    match = _HTTP_ORIGIN.fullmatch(origin)
    return (
        match is not None and host is not None and _authority(match[1]) == _authority(host)
    )


def _authority(host: bytes) -> bytes:
    return _DEFAULT_PORT.sub(b"", host).lower()


class Access:
    """
    Decides which tokens may move the cursor, and which web pages may use the service.
    """

    def __init__(
        self, tokens: frozenset[bytes] | None = None, origins: Collection[str] = ()
    ) -> None:
        """
        Make the rules of one worker.

        @param tokens: digests of the tokens that may move the cursor; C{None} if steps need
            no token.
        @param origins: the other origins whose pages may use the API.
        """
        self._tokens = tokens
        # The headers of the responses to the pages of each allowed origin.
        self._allowed_origins = {
            origin.encode(): (
                _NOSNIFF,
                _VARY,
                (b"Access-Control-Allow-Origin", origin.encode()),
                (b"Access-Control-Expose-Headers", _EXPOSED_HEADERS),
            )
            for origin in origins
        }
        own = (_NOSNIFF, _SAME_ORIGIN)
        self._other_headers = (*own, _VARY) if self._allowed_origins else own

    def allows_origin(self, origins: Sequence[bytes]) -> bool:
        """
        Return whether C{Origin} has a single value, and C{--cors-origin} names this value.
        """
        return len(origins) == 1 and origins[0] in self._allowed_origins

    def check_page(self, action: str, headers: RequestHeaders) -> None:
        """
        Refuse a request from a page of another origin.

        This is called for each step, whether it is a GET or a POST, before the token is
        checked.

        @param action: what the page may not do.  The text of the problem contains this.
        @raise Problem: 403.
        """
        sites, origins = headers.get(SEC_FETCH_SITE, ()), headers.get(ORIGIN, ())
        if not (sites or origins) or self.allows_origin(origins):
            return
        # If a header has several values, all of them must pass.
        if sites:
            passes = all(site in (b"same-origin", b"none") for site in list_elements(sites))
        else:
            host = headers.get(HOST, (None,))[0]
            passes = all(same_host(origin, host) for origin in list_elements(origins))
        if not passes:
            raise problems.cross_origin(action)

    def check_token(self, headers: RequestHeaders) -> None:
        """
        Refuse a request without a token that may move the cursor.

        @raise Problem: 401.
        """
        if self._tokens is None:
            return
        values = headers.get(AUTHORIZATION, ())
        scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
        if scheme.lower() != b"bearer":
            raise problems.no_token()
        digest, is_valid = sha256(token.strip()).digest(), False
        # The token is compared with all valid tokens, so that the duration of the check
        # tells a client nothing about these tokens.
        for valid_digest in self._tokens:
            is_valid |= compare_digest(digest, valid_digest)
        if not is_valid:
            raise problems.wrong_token()

    def browser_headers(self, origins: Sequence[bytes]) -> tuple[Header, ...]:
        """
        Return the headers that every response must have for browsers.

        @param origins: the values of the request's C{Origin}.
        """
        if not self.allows_origin(origins):
            return self._other_headers
        return self._allowed_origins[origins[0]]

    def preflight_headers(
        self, headers: RequestHeaders, allow: bytes
    ) -> tuple[Header, ...]:
        """
        Return further headers for the response to an C{OPTIONS}, if it is a preflight.

        With a preflight, a browser asks whether a page of another origin may send a certain
        request.  If C{--cors-origin} does not name this origin, there are no headers.

        @param allow: the methods that the path accepts.
        """
        if not (REQUEST_METHOD in headers and self.allows_origin(headers.get(ORIGIN, ()))):
            return ()
        return (
            (b"Access-Control-Allow-Methods", allow),
            (b"Access-Control-Allow-Headers", _ACCEPTED_HEADERS),
            (b"Access-Control-Max-Age", _PREFLIGHT_SECONDS),
        )


def host_name(host: bytes) -> str:
    """
    Return the name in a C{Host} header in small letters, without port and final dot.
    """
    return _ANY_PORT.sub(b"", host).decode("latin-1").lower().removesuffix(".")


class HostPolicy:
    """
    The rules on C{Host}.

    @ivar allows_from_every_peer: called with a value of C{Host}; returns whether every peer
        may send this value.  The results are cached, because most clients send the same few
        values.
    """

    def __init__(self, allowed: Iterable[str] = (), *, own_name: str) -> None:
        """
        Allow IP addresses, C{localhost} and its subdomains, and the names given here.

        @param allowed: host names.  L{ANY_HOST} among them allows every name.
        @param own_name: the machine's name, as C{gethostname} returns it.
        """
        names = {host_name(name.encode()) for name in allowed}
        self._allows_every_host = ANY_HOST in names
        self._names = frozenset({"localhost", host_name(own_name.encode()), *names})
        self._logged: set[str] = set()
        self.allows_from_every_peer = lru_cache(maxsize=256)(self._allows_from_every_peer)

    def protects(self, peer: Peer) -> bool:
        """
        Return whether the C{Host} of requests from C{peer} is checked.
        """
        return peer.is_local and not self._allows_every_host

    def _allows_from_every_peer(self, host: bytes | None) -> bool:
        # A request without Host is HTTP/1.0, so no browser has sent it: no attack.
        if host is None or self._allows_every_host:
            return True
        name = host_name(host)
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    def check(self, host: bytes | None, peer: Peer) -> None:
        """
        Check the C{Host} of a request from C{peer}, and log the first refusal of a name.

        @raise Problem: 421.
        """
        if self.allows_from_every_peer(host) or not peer.is_local:
            return
        name, logged = host_name(host or b""), self._logged
        # No option allows an empty name.
        if name and name not in logged and len(logged) < MAX_LOGGED_HOSTS:
            logged.add(name)
            _log.warn(
                "refused a request for the host {name} over loopback, because steps need no"
                " token: --allowed-host {name} allows it, and --trusted-proxy if it came"
                " from a proxy",
                name=name,
            )
            if len(logged) == MAX_LOGGED_HOSTS:
                _log.warn(
                    "refused hosts are no longer logged: there were {n}", n=MAX_LOGGED_HOSTS
                )
        raise problems.misdirected()


def _is_address(name: str) -> bool:
    """
    Return whether C{name} is an IP address, which no name server can redirect.
    """
    try:
        if name.startswith("["):
            return name.endswith("]") and bool(IPv6Address(name[1:-1]))
        return ip_address(name).version == 4  # noqa: PLR2004 IPv6 needs brackets
    except ValueError:
        return False
