"""
Operations on the cursor, and the checks of a request before its operation.

If several checks of a request fail, the client gets the first problem in this order:

  1. L{RequestChecker.check_rate_and_host} checks the client's rate and the C{Host}.
  2. L{Api<pexservice.web.api.Api>} refuses a path or a method that does not exist, and a
     step that is a prefetch.
  3. L{RequestChecker.check_operation} refuses a step that a page of another origin has
     sent.  Then it checks the token of the step, and the syntax of the key and of the
     preconditions.

A read changes nothing, so only the syntax of its preconditions is checked.  A page of
another origin may send a read, because the browser hides the response from the page.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from attrs import frozen
from twisted.internet.defer import Deferred

from pexservice.commit.interface import ICommitter, Outcome, Step, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.web import problems
from pexservice.web.access import Access, HostPolicy
from pexservice.web.clients import Clients, Peer, RateLimit
from pexservice.web.parameters import (
    DECIDING_HEADERS,
    FORWARDED_FOR,
    HOST,
    ORIGIN,
    RequestHeaders,
    idempotency_key,
    preconditions_of,
)
from pexservice.web.preconditions import UNCONDITIONAL, Preconditions
from pexservice.web.representations import (
    IF_MATCH_FAILED,
    IF_NONE_MATCH_FAILED,
    NOT_MODIFIED,
    REPLAYED,
    STATE,
    ResponseKind,
)
from pexservice.web.responses import Response


@frozen(eq=False)
class Request:
    """
    A complete and well-formed request.

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
    An operation on the cursor.

    Many requests can have the same operation.  Their idempotency keys, tokens and
    preconditions may differ.

    @ivar transition: the transition of a step; C{None} if the operation is a read.
    """

    method: bytes
    transition: Transition | None = None


#: What a handler of the Klein app returns.
HandlerResult = Operation | Response | Deferred[Response]


def response_kind(
    outcome: Outcome, state: State, method: bytes, preconditions: Preconditions
) -> ResponseKind:
    """
    Return the kind of response for C{outcome}.

    For a read, the kind also depends on whether C{state} meets the preconditions.
    """
    if outcome is Outcome.APPLIED:
        return STATE
    if outcome is Outcome.REPLAYED:
        return REPLAYED
    if outcome is Outcome.READ and preconditions.met_by(state):
        return STATE
    # Here a precondition is not met.  If it is If-Match, the status is 412.  If it is
    # If-None-Match, it is 304 for GET and HEAD, and 412 for POST (RFC 9110, 13.1.2).
    if not preconditions.if_match_holds(state):
        return IF_MATCH_FAILED
    return IF_NONE_MATCH_FAILED if method == b"POST" else NOT_MODIFIED


class RequestChecker:
    """
    Checks requests before their operations on the cursor.

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

        See L{pexservice.server.plans}.

        @return: for each header, the function that returns the meaning of its values.
        """

        def allowed_origin(values: Sequence[bytes]) -> bytes:
            # All origins that are not allowed have the same meaning.
            return values[0] if self.access.allows_origin(values) else b""

        return {**DECIDING_HEADERS, ORIGIN: allowed_origin}

    def check_rate(self, headers: RequestHeaders, peer: Peer) -> None:
        """
        Count a request against the rate limit of its client.

        @raise Problem: 429 above the limit.
        """
        limit = self._limit
        if limit is not None:
            address = self.clients.client_address(peer, headers.get(FORWARDED_FOR))
            if not limit.take(address):
                raise problems.too_many_requests(limit.rate)

    def check_rate_and_host(self, headers: RequestHeaders, peer: Peer) -> None:
        """
        Check the client's rate, then the C{Host}.

        @raise Problem: 429 or 421.
        """
        self.check_rate(headers, peer)
        self.hosts.check(headers.get(HOST, (None,))[0], peer)

    def must_check_rate_and_host(self, headers: RequestHeaders) -> bool:
        """
        Return whether the rate and the C{Host} must be checked for each such request.

        A rate limit counts each request.  A C{Host} may be allowed from some peers only.
        """
        host = headers.get(HOST, (None,))[0]
        return self._limit is not None or not self.hosts.allows_from_every_peer(host)

    def check_operation(
        self, operation: Operation, headers: RequestHeaders
    ) -> tuple[Callable[[Waiter], None], Preconditions]:
        """
        Check whether a request with C{headers} may start C{operation}.

        @return: a function that starts the operation, which then gives its outcome to the
            waiter; and the preconditions of the request.
        @raise Problem: 403 for a page of another origin, 401 for the token, 400 for a
            malformed key or precondition.  The checks are made in this order.
        """
        transition, start = operation.transition, self._committer.read
        if transition is None:
            preconditions = preconditions_of(headers)
        else:
            self.access.check_page("move the cursor", headers)
            self.access.check_token(headers)
            key = idempotency_key(headers)
            preconditions = preconditions_of(headers)
            # Most steps have no preconditions.  None saves the committer a call for them.
            is_met = None if preconditions is UNCONDITIONAL else preconditions.met_by
            start = partial(self._committer.step, Step(transition, key, is_met))
        return start, preconditions
