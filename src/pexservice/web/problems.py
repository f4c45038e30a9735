"""
The table of problems.  A problem is the response to a request that is refused or fails.

Each row says what is wrong and what to do.  A client that accepts JSON gets the problem in
the format of RFC 9457; any other client gets a line of text.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from attrs import frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.interface import KeyReused
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.web.responses import CONTENT_TYPES, PROBLEM, Header, Response

_log = Logger()

#: Problem types are URNs and not URLs, because there are no web pages about them.
TYPE_PREFIX = "urn:problem-type:pexservice:"


@frozen
class Problem(Exception):
    """
    The reason why a request is refused or fails, in words for the client.

    @ivar name: the last part of the problem type.  Clients compare it, so it never changes.
    @ivar detail: one line, which says what is wrong and what to do.
    """

    status: HTTPStatus
    name: str
    detail: str
    headers: tuple[Header, ...] = ()

    def response(self, representation: str) -> Response:
        if representation == PROBLEM:
            members = {
                "type": TYPE_PREFIX + self.name,
                "title": self.name.replace("-", " ").capitalize(),
                "status": self.status.value,
                "detail": self.detail,
            }
            body = f"{json.dumps(members)}\n".encode()
        else:
            body = f"{self.detail}\n".encode()
        # A 412 describes a state, and has its own Cache-Control and Vary in self.headers.
        headers = {
            b"Content-Type": CONTENT_TYPES[representation],
            b"Cache-Control": b"no-store",
            b"Vary": b"Accept",
            **dict(self.headers),
        }
        return Response(self.status.value, tuple(headers.items()), body)


class ProblemKind:
    """
    A row of the table.  A call of it returns a L{Problem}.
    """

    def __init__(self, status_and_name: str, detail: str, *headers: Header) -> None:
        status, _, self._name = status_and_name.partition(" ")
        self._status = HTTPStatus(int(status))
        self._detail = detail
        self._headers = headers

    def __call__(self, *values: object, headers: tuple[Header, ...] = ()) -> Problem:
        """
        Return a problem of this kind.

        @param values: the values for the braces in the detail, in order.
        @param headers: further headers of the response.
        """
        detail = self._detail.format(*values)
        return Problem(self._status, self._name, detail, (*self._headers, *headers))


#: All methods that the service accepts, on one path or another.
ALL_METHODS = b"GET, HEAD, POST, OPTIONS"

_RETRY_SOON = (b"Retry-After", b"1")

malformed = ProblemKind("400 bad-request", "{}")
no_token = ProblemKind(
    "401 unauthorized",
    "moving the cursor requires a token; send one header Authorization: Bearer TOKEN",
    (b"WWW-Authenticate", b'Bearer realm="pexservice"'),
)
wrong_token = ProblemKind(
    "401 unauthorized",
    "this token may not move the cursor; ask the operator for one that may",
    (b"WWW-Authenticate", b'Bearer realm="pexservice", error="invalid_token"'),
)
cross_origin = ProblemKind(
    "403 cross-origin",
    "a web page of another origin may not {}; the operator can allow its origin with"
    " --cors-origin",
)
prefetch = ProblemKind(
    "403 not-on-purpose",
    "a prefetch may not move the cursor; send the request when the user asks for it",
)
no_such_path = ProblemKind("404 not-found", "no such path; use one of {}")
wrong_method = ProblemKind("405 method-not-allowed", "method not allowed; use one of {}")
no_tunnel = ProblemKind(
    "405 method-not-allowed",
    "method not allowed: this service is no proxy; use GET or POST with a path",
    (b"Allow", ALL_METHODS),
)
too_slow = ProblemKind(
    "408 request-timeout",
    "request timeout: the complete request must arrive within {} s",
)
unmet_if_match = ProblemKind(
    "412 precondition-failed",
    "precondition failed: the cursor is at the revision in Pex-Revision, and If-Match must"
    " list it (without W/); nothing was moved",
)
unmet_if_none_match = ProblemKind(
    "412 precondition-failed",
    "precondition failed: the cursor is at the revision in Pex-Revision, and If-None-Match"
    " must not list it (or be *); nothing was moved",
)
too_much_content = ProblemKind(
    "413 content-too-large",
    "request body too large: at most {} bytes are allowed, and no endpoint needs a body",
)
too_many_chunks = ProblemKind(
    "413 content-too-large",
    "request body too large: at most {} bytes in {} chunks are allowed, and no endpoint"
    " needs a body",
)
too_long_target = ProblemKind(
    "414 uri-too-long",
    "request line too long: at most {} bytes are allowed; shorten the query",
)
misdirected = ProblemKind(
    "421 misdirected-request",
    "unknown Host: over loopback, use an IP address or localhost, or ask the operator to"
    " name the host in --allowed-host",
)
key_reused = ProblemKind(
    "422 key-reused",
    "this Idempotency-Key was used for /{}; make a new key for each step",
)
too_many_requests = ProblemKind(
    "429 too-many-requests",
    "rate limit exceeded: {} requests per second per client address; retry after 1 s",
    _RETRY_SOON,
)
too_many_headers = ProblemKind(
    "431 headers-too-large",
    "request headers too large: at most {} bytes in {} lines are allowed",
)
internal_error = ProblemKind(
    "500 internal-error", "internal error; the service's log has the reason"
)
not_taken = ProblemKind("503 not-taken", "{}; nothing was moved, try again", _RETRY_SOON)
outcome_unknown = ProblemKind(
    "503 outcome-unknown",
    "the store failed during the step, so the cursor may have moved; read /current, or"
    " repeat the step with the same Idempotency-Key",
    _RETRY_SOON,
)
too_many_connections = ProblemKind(
    "503 too-many-connections",
    "connection limit reached: {} connections are busy; try again",
    _RETRY_SOON,
)
too_many_streams = ProblemKind(
    "503 too-many-streams",
    "stream limit reached: {} clients watch the cursor; try again, or read /current",
    (b"Retry-After", b"10"),
)


def problem_of(error: Exception) -> Problem:
    """
    Return the problem that a client gets because of C{error}.

    C{error} is a problem itself, an error of the committer, or a bug.  A bug is logged.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, KeyReused):
        return key_reused(error.used.word)
    if isinstance(error, Refusal):
        return not_taken(error)
    if isinstance(error, OutcomeUnknown):
        return outcome_unknown()
    _log.failure("a request failed", failure=Failure(error))
    return internal_error()
