"""
The problems: the answers to requests that are refused or that failed.

Each outcome has one function, so that its status, its name and its words stand together.
The words say what is wrong and what to do about it.  They are a line of text by default,
and RFC 9457's problem details for clients that accept JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from attrs import frozen

from pexservice.commit.requests import KeyReused
from pexservice.stores.interface import NotTaken, OutcomeUnknown
from pexservice.web.responses import PROBLEM, TYPES, Header, Response

#: Problem types are names, not addresses: there is no page to fetch.
TYPE_PREFIX = "urn:problem-type:pexservice:"


@frozen(kw_only=True)
class Problem(Exception):
    """
    An outcome other than the one that was asked for; raised where it is found.

    @ivar name: the last part of the problem type, stable.
    @ivar detail: one line.
    """

    status: HTTPStatus
    name: str
    detail: str
    headers: tuple[Header, ...] = ()

    def response(self, representation: str) -> Response:
        """
        Return the problem as a response.

        @param representation: L{TEXT} or L{PROBLEM}.
        """
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
        # The present state's headers, of a 412, have the latter two already.
        headers = {
            b"Content-Type": TYPES[representation],
            b"Cache-Control": b"no-store",
            b"Vary": b"Accept",
            **dict(self.headers),
        }
        return Response(self.status.value, tuple(headers.items()), body)


def malformed(detail: str) -> Problem:
    """
    Return 400: the request, or one of its headers or parameters, cannot be understood.
    """
    return Problem(status=HTTPStatus.BAD_REQUEST, name="bad-request", detail=detail)


def no_token() -> Problem:
    """
    Return 401: moving the cursor takes a token.
    """
    return Problem(
        status=HTTPStatus.UNAUTHORIZED,
        name="unauthorized",
        detail="moving the cursor takes a token; send Authorization: Bearer TOKEN",
        headers=((b"WWW-Authenticate", b'Bearer realm="pexservice"'),),
    )


def wrong_token() -> Problem:
    """
    Return 401: moving the cursor takes another token.
    """
    return Problem(
        status=HTTPStatus.UNAUTHORIZED,
        name="unauthorized",
        detail="this token may not move the cursor; ask the operator for one that may",
        headers=(
            (b"WWW-Authenticate", b'Bearer realm="pexservice", error="invalid_token"'),
        ),
    )


def cross_origin(deed: str) -> Problem:
    """
    Return 403: a browser sent the request for a page of another origin.

    @param deed: what the page would do, as C{move the cursor}.
    """
    return Problem(
        status=HTTPStatus.FORBIDDEN,
        name="cross-origin",
        detail=f"a web page of another origin may not {deed}; the service's operator can"
        " name its origin in --cors-origin",
    )


def not_on_purpose() -> Problem:
    """
    Return 403: a browser sent the request ahead of its user, and maybe for nothing.
    """
    return Problem(
        status=HTTPStatus.FORBIDDEN,
        name="not-on-purpose",
        detail="a prefetch may not move the cursor; send the request when it is meant",
    )


def no_such_path(paths: Iterable[str]) -> Problem:
    """
    Return 404: there is no such path, and paths are matched literally.
    """
    return Problem(
        status=HTTPStatus.NOT_FOUND,
        name="not-found",
        detail=f"there is no such path; there are {' '.join(paths)}",
    )


def wrong_method(allowed: bytes) -> Problem:
    """
    Return 405: the path takes other methods.
    """
    return Problem(
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        name="method-not-allowed",
        detail=f"this path takes {allowed.decode()}",
        headers=((b"Allow", allowed),),
    )


def no_tunnel() -> Problem:
    """
    Return 405: requests end here, and go no further.
    """
    return Problem(
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        name="method-not-allowed",
        detail="this service is no proxy; send GET or POST with a path",
        headers=((b"Allow", b"GET, HEAD, POST, OPTIONS"),),
    )


def unmet_precondition(present: tuple[Header, ...]) -> Problem:
    """
    Return 412: the cursor is at another revision.

    @param present: the present state's headers.
    """
    return Problem(
        status=HTTPStatus.PRECONDITION_FAILED,
        name="precondition-failed",
        detail="the cursor is at another revision, see Pex-Revision; nothing was moved",
        headers=present,
    )


def too_much_content(limit: int, chunks: int | None = None) -> Problem:
    """
    Return 413: no endpoint reads a body, so a large one is a mistake.

    @param chunks: how many chunks it may have, for a body that is sent in chunks.
    """
    size = f"{limit} bytes" if chunks is None else f"{limit} bytes in {chunks} chunks"
    return Problem(
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        name="content-too-large",
        detail=f"a request body may have {size}; no endpoint needs one",
    )


def too_long_target(limit: int) -> Problem:
    """
    Return 414: no request line here is long.
    """
    return Problem(
        status=HTTPStatus.REQUEST_URI_TOO_LONG,
        name="uri-too-long",
        detail=f"a request line may have {limit} bytes; shorten the query",
    )


def misdirected() -> Problem:
    """
    Return 421: the name in C{Host}, which the answer does not repeat, may be anybody's.
    """
    return Problem(
        status=HTTPStatus.MISDIRECTED_REQUEST,
        name="misdirected-request",
        detail="this service does not answer to this Host over loopback; use an IP address"
        " or localhost, or have its operator name the host in --allowed-host",
    )


def key_reused(used: str) -> Problem:
    """
    Return 422: an idempotency key stands for one request.
    """
    return Problem(
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        name="key-reused",
        detail=f"this Idempotency-Key was used for /{used}; make a new key for each step",
    )


def too_many_headers(size: int, count: int) -> Problem:
    """
    Return 431: the header section is larger than any client needs.
    """
    return Problem(
        status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        name="headers-too-large",
        detail=f"the headers of a request may have {size} bytes in {count} lines",
    )


def internal_error() -> Problem:
    """
    Return 500: there is a bug, and the log has the rest.
    """
    return Problem(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        name="internal-error",
        detail="the service failed to answer; its log says why",
    )


_LATER = ((b"Retry-After", b"1"),)


def not_taken(reason: str) -> Problem:
    """
    Return 503: the step surely did not happen.
    """
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        name="not-taken",
        detail=f"{reason}; nothing was moved, try again",
        headers=_LATER,
    )


def outcome_unknown() -> Problem:
    """
    Return 503: the step may have happened.
    """
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        name="outcome-unknown",
        detail=(
            "the store failed while the step was under way, so it may have been taken;"
            " read /current, or repeat it with the same Idempotency-Key"
        ),
        headers=_LATER,
    )


def problem_of(error: Exception) -> Problem:
    """
    Return the problem that a client is sent for C{error}.

    That is a problem itself, or an error of the committer, or else a bug.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, KeyReused):
        return key_reused(error.used.word)
    if isinstance(error, NotTaken):
        return not_taken(str(error))
    if isinstance(error, OutcomeUnknown):
        return outcome_unknown()
    return internal_error()


def too_slow(seconds: float) -> Problem:
    """
    Return 408: the request did not arrive in time.
    """
    return Problem(
        status=HTTPStatus.REQUEST_TIMEOUT,
        name="request-timeout",
        detail=f"a request has {seconds:g} seconds to arrive; send it whole",
    )


def too_many_requests(rate: int) -> Problem:
    """
    Return 429: the client asks too often.
    """
    return Problem(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        name="too-many-requests",
        detail=f"a client address has {rate} requests a second; slow down",
        headers=_LATER,
    )


def too_many_streams(limit: int) -> Problem:
    """
    Return 503: as many clients watch the cursor as may.
    """
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        name="too-many-streams",
        detail=f"{limit} clients watch the cursor already; try again, or read /current",
        headers=((b"Retry-After", b"10"),),
    )


def too_many_connections(limit: int) -> Problem:
    """
    Return 503: every connection that may be open is busy.
    """
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        name="too-many-connections",
        detail=f"{limit} connections are busy; try again",
        headers=_LATER,
    )
