"""
Operations on the cursor, and the checks of a request before its operation.

A request is checked in this order.  L{RequestChecker.check_client} checks the client's rate
limit and the C{Host}.  The L{Api<pexservice.web.api.Api>} refuses paths and methods that do
not exist.  L{RequestChecker.check_operation} checks the web page that sent the request, the
token, the idempotency key and the preconditions.
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
    conditions,
    idempotency_key,
    is_prefetch,
    preferences,
)
from pexservice.web.preconditions import UNCONDITIONAL, Conditions
from pexservice.web.problems import Problem
from pexservice.web.representations import (
    NOT_MODIFIED,
    PRECONDITION_FAILED,
    REPLAYED,
    VALUE,
    ResponseKind,
)
from pexservice.web.responses import Response

# Module-level aliases: reading a global is three times faster than an Enum attribute.
_READ, _APPLIED, _REPLAYED = Outcome.READ, Outcome.APPLIED, Outcome.REPLAYED


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

    All requests of one kind have the same operation; they differ only in their headers.

    @ivar is_prefetch: whether a browser sent the request before its user asked for it.
    """

    method: bytes
    preferences: Preferences
    transition: Transition | None
    is_prefetch: bool


#: What a handler of the Klein app returns.
HandlerResult = Operation | Response | Deferred[Response]


def operation(request: Request, transition: Transition | None = None) -> Operation:
    """
    Return the operation that C{request} means.
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
    An operation that a request with certain headers may start.

    @ivar start: starts the operation; its argument gets the outcome.
    @ivar needs_client_check: whether each further request with these headers must pass
        L{RequestChecker.check_client}, because there is a rate limit, or because the
        C{Host} is allowed on some connections only.
    """

    start: Callable[[Waiter], None]
    method: bytes
    conditions: Conditions
    needs_client_check: bool


def read_response_kind(conditions: Conditions, state: State) -> ResponseKind:
    """
    Return the kind of response that a read of C{state} gets.
    """
    if conditions is UNCONDITIONAL or conditions.met_by(state):
        return VALUE
    return NOT_MODIFIED if conditions.if_match_holds(state) else PRECONDITION_FAILED


def response_kind(
    outcome: Outcome, state: State, operation: CheckedOperation
) -> ResponseKind:
    """
    Return the kind of response to C{operation} with this C{outcome}.

    L{Connection.respond<pexservice.server.connection.Connection.respond>} does not call
    this function in the most frequent case.
    """
    conditions = operation.conditions
    if outcome is _APPLIED:
        return VALUE
    if outcome is _REPLAYED:
        return REPLAYED
    if outcome is _READ:
        return read_response_kind(conditions, state)
    # The outcome is PRECONDITION_FAILED.  RFC 9110, section 13.1.2: a GET whose
    # If-None-Match is not met gets a 304.
    if operation.method == b"GET" and conditions.if_match_holds(state):
        return NOT_MODIFIED
    return PRECONDITION_FAILED


class RequestChecker:
    """
    Checks requests before their operations on the cursor of one committer.

    @ivar clients: finds the client that a request comes from.
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
        Return the deciding headers.

        Each header has a function that returns the meaning of its values.
        """
        browser_headers = self.access.browser_headers
        others = browser_headers(())

        def origin(values: Sequence[bytes]) -> bytes:
            return b"" if browser_headers(values) is others else values[0]

        return {**MEANINGS, ORIGIN: origin}

    def charge(self, headers: RequestHeaders, peer: Peer) -> Problem | None:
        """
        Count a request against its client's rate limit; return 429 if it is exceeded.
        """
        limit = self._limit
        if limit is None:
            return None
        client = self.clients.client_address(peer, headers.get(FORWARDED_FOR))
        return None if limit.take(client) else problems.too_many_requests(limit.rate)

    def check_client(self, headers: RequestHeaders, peer: Peer) -> None:
        """
        Check the client's rate limit, then the C{Host}.

        @raise Problem: 429 or 421.
        """
        problem = self.charge(headers, peer)
        if problem is not None:
            raise problem
        host = headers.get(HOST, (None,))[0]
        if not self.hosts.allows(host) and peer.checks_host:
            raise self.hosts.refusal(host)

    def check_operation(
        self, operation: Operation, headers: RequestHeaders
    ) -> CheckedOperation:
        """
        Check whether a request with C{headers} may start C{operation}.

        @raise Problem: it may not.  The first failed check decides: 403 for a page of
            another origin or a prefetch, 401 for the token, 400 for a malformed key or
            precondition.
        """
        committer, transition = self._committer, operation.transition
        needs_client_check = self._limit is not None or not self.hosts.allows(
            headers.get(HOST, (None,))[0]
        )
        if transition is None:
            start, preconditions = committer.read, conditions(headers)
            return CheckedOperation(
                start, operation.method, preconditions, needs_client_check
            )
        self.access.check_page("move the cursor", headers)
        if operation.is_prefetch:
            raise problems.prefetch()
        self.access.check_token(headers)
        key = idempotency_key(headers)
        preconditions = conditions(headers)
        condition = None if preconditions is UNCONDITIONAL else preconditions.met_by
        step = partial(committer.step, Step(transition, key, condition))
        return CheckedOperation(step, operation.method, preconditions, needs_client_check)
