"""
Operations on the cursor, and the checks of a request before its operation.

A request is checked in this order.  L{RequestChecker.check_rate_and_host} checks the
client's rate and the C{Host}.  The L{Api<pexservice.web.api.Api>} refuses paths and methods
that do not exist.  For a step, L{RequestChecker.check_operation} checks whether a page of
another origin or a prefetch sent the request, and then the token, the idempotency key and
the preconditions.  For a read, it checks only the preconditions: browsers do not let a page
read the response of another origin.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from attrs import define, frozen
from twisted.internet.defer import Deferred

from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.web import problems
from pexservice.web.access import Access, HostPolicy
from pexservice.web.clients import Clients, Peer, RateLimit
from pexservice.web.parameters import (
    FORWARDED_FOR,
    HOST,
    MEANINGS,
    ORIGIN,
    PREFETCH_HEADERS,
    Preferences,
    RequestHeaders,
    idempotency_key,
    is_prefetch,
    preconditions_of,
    preferences,
)
from pexservice.web.preconditions import UNCONDITIONAL, Preconditions
from pexservice.web.problems import Problem
from pexservice.web.representations import (
    NOT_MODIFIED,
    PRECONDITION_FAILED,
    REPLAYED,
    VALUE,
    ResponseKind,
)
from pexservice.web.responses import Response


@frozen(eq=False)
class Request:
    """
    A request, complete and well formed.

    @ivar target: the path with the query.
    """

    method: bytes
    target: bytes
    path: bytes
    headers: RequestHeaders
    peer: Peer


@frozen(eq=False)
class Operation:
    """
    An operation on the cursor: a step, or a read if there is no transition.

    All requests with the same plan have the same operation.  Only the values of some
    headers differ, such as the idempotency key.

    @ivar is_prefetch: whether a browser sent the request before its user asked for it.
    """

    method: bytes
    preferences: Preferences
    transition: Transition | None
    is_prefetch: bool


#: What a handler of the Klein app returns.
HandlerResult = Operation | Response | Deferred[Response]


def operation_of(request: Request, transition: Transition | None = None) -> Operation:
    """
    Return the operation that C{request} asks for.
    """
    headers = request.headers
    return Operation(
        request.method,
        preferences(headers),
        transition,
        is_prefetch=any(is_prefetch(headers.get(name, ())) for name in PREFETCH_HEADERS),
    )


@define(eq=False)
class CheckedOperation:
    """
    An operation whose request has passed all checks.

    @ivar start: starts the operation, and gives the outcome to the waiter that it is called
        with.
    @ivar needs_recheck: whether L{RequestChecker.check_rate_and_host} is called again when
        this request is recognized: there is a rate limit, or the C{Host} is allowed for
        some peers only.
    """

    start: Callable[[Waiter], None]
    method: bytes
    preconditions: Preconditions
    needs_recheck: bool


def response_kind(
    outcome: Outcome, state: State, method: bytes, preconditions: Preconditions
) -> ResponseKind:
    """
    Return the kind of response that shows C{state} to a request with this C{outcome}.
    """
    if outcome is Outcome.APPLIED:
        return VALUE
    if outcome is Outcome.REPLAYED:
        return REPLAYED
    if outcome is Outcome.READ and preconditions.met_by(state):
        return VALUE
    # RFC 9110, section 13.1.2: a GET or HEAD whose If-None-Match is not met gets a 304.
    if method != b"POST" and preconditions.if_match_holds(state):
        return NOT_MODIFIED
    return PRECONDITION_FAILED


class RequestChecker:
    """
    Checks requests before their operations on the cursor of one committer.

    @ivar clients: finds the client that sent a request.
    @ivar access: the rules on tokens and web pages.
    @ivar hosts: the rules on C{Host}.
    """

    def __init__(
        self,
        committer: ICommitter,
        access: Access,
        clients: Clients,
        *,
        hosts: HostPolicy,
        limit: RateLimit | None = None,
    ) -> None:
        self.clients = clients
        self.access = access
        self._committer = committer
        self.hosts = hosts
        self._limit = limit

    def deciding_headers(self) -> Mapping[bytes, Callable[[Sequence[bytes]], Hashable]]:
        """
        Return the headers that decide which plan a request has.

        Each header has a function that returns the meaning of its values.
        """

        def origin(values: Sequence[bytes]) -> bytes:
            return values[0] if self.access.is_allowed(values) else b""

        return {**MEANINGS, ORIGIN: origin}

    def charge(self, headers: RequestHeaders, peer: Peer) -> Problem | None:
        """
        Charge a request to its client; return a 429 if the client exceeds its rate limit.
        """
        limit = self._limit
        if limit is None:
            return None
        client = self.clients.client_address(peer, headers.get(FORWARDED_FOR))
        return None if limit.take(client) else problems.too_many_requests(limit.rate)

    def check_rate_and_host(self, headers: RequestHeaders, peer: Peer) -> None:
        """
        Check the client's rate, then the C{Host}.

        @raise Problem: 429 or 421.
        """
        if self._limit is not None:
            problem = self.charge(headers, peer)
            if problem is not None:
                raise problem
        self.hosts.check(headers.get(HOST, (None,))[0], peer)

    def check_operation(
        self, operation: Operation, headers: RequestHeaders
    ) -> CheckedOperation:
        """
        Check whether a request with C{headers} may start C{operation}.

        @raise Problem: a check failed.  The checks are made in this order: 403 for a page
            of another origin or a prefetch, 401 for the token, 400 for a malformed key or
            precondition.
        """
        committer, transition = self._committer, operation.transition
        needs_recheck = self._limit is not None or not self.hosts.allows(
            headers.get(HOST, (None,))[0]
        )
        if transition is None:
            start, preconditions = committer.read, preconditions_of(headers)
            return CheckedOperation(start, operation.method, preconditions, needs_recheck)
        self.access.check_page("move the cursor", headers)
        if operation.is_prefetch:
            raise problems.prefetch()
        self.access.check_token(headers)
        key = idempotency_key(headers)
        preconditions = preconditions_of(headers)
        # With None, the committer calls nothing for a step without preconditions.
        condition = None if preconditions is UNCONDITIONAL else preconditions.met_by
        step = partial(committer.step, Step(transition, key, condition))
        return CheckedOperation(step, operation.method, preconditions, needs_recheck)
