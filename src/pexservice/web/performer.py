"""
The checks of a request that was understood, in their order, and the start of its operation.

L{Performer.admit} checks who asks, and L{Performer.call} what is asked for.  Between the
two, the L{Api<pexservice.web.api.Api>} refuses paths and methods that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from pexservice.commit.interface import ICommitter
from pexservice.commit.requests import Step
from pexservice.web import problems
from pexservice.web.access import Access
from pexservice.web.clients import Clients, Peer
from pexservice.web.dns_rebinding import HostPolicy
from pexservice.web.operations import Call, Operation
from pexservice.web.parameters import (
    FORWARDED_FOR,
    HOST,
    MEANINGS,
    ORIGIN,
    REQUEST_METHOD,
    Arguments,
    conditions,
    key_of,
)
from pexservice.web.preconditions import UNCONDITIONAL
from pexservice.web.problems import Problem
from pexservice.web.responses import Header
from pexservice.web.throttle import RateLimit


class Performer:
    """
    Checks requests and starts their operations on one committer's cursor.

    @ivar clients: finds the client that a request comes from.
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
        self._committer = committer
        self._access = access
        self._hosts = hosts
        self._limit = limit

    def browser_headers(self, origins: Sequence[bytes]) -> tuple[Header, ...]:
        """
        Return the headers for browsers that every response to a request has.

        @param origins: the values of its C{Origin}.
        """
        return self._access.pages.answer_headers(origins)

    def meanings(self) -> Mapping[bytes, Callable[[Sequence[bytes]], Hashable]]:
        """
        Return a function for each header that decides what a request means.

        The function returns the meaning of the header's values.
        """
        others = self.browser_headers(())

        def origin(values: Sequence[bytes]) -> bytes:
            return b"" if self.browser_headers(values) is others else values[0]

        return {**MEANINGS, ORIGIN: origin}

    def preflight(self, arguments: Arguments, allow: bytes) -> tuple[Header, ...]:
        """
        Return the headers for browsers that only the response to an C{OPTIONS} has.

        @param allow: the methods that the path accepts.
        """
        return self._access.pages.preflight_headers(
            arguments.get(ORIGIN, ()), allow, asks=REQUEST_METHOD in arguments
        )

    def charge(self, arguments: Arguments, peer: Peer) -> Problem | None:
        """
        Count a request against its client's rate, and return 429 if it is exceeded.
        """
        limit = self._limit
        if limit is None:
            return None
        client = self.clients.client_host(peer, arguments.get(FORWARDED_FOR))
        return None if limit.take(client) else problems.too_many_requests(limit.rate)

    def admit(self, arguments: Arguments, peer: Peer, *, any_host: bool = False) -> None:
        """
        Check the client's rate, then the C{Host}.

        @param any_host: whether the C{Host} is known to be allowed on every connection.
        @raise Problem: 429 or 421.
        """
        problem = self.charge(arguments, peer)
        if problem is not None:
            raise problem
        if not any_host:
            host = arguments.get(HOST, (None,))[0]
            if not self._hosts.answers_to(host) and peer.checks_host:
                raise self._hosts.refusal(host)

    def is_local(self, peer: Peer) -> bool:
        """
        Return whether only programs of this machine can send requests as C{peer} does.
        """
        return self._hosts.applies_to(peer)

    def check_page(self, deed: str, arguments: Arguments) -> None:
        """
        Refuse a request that a page of another origin sent.

        @param deed: what the request would do, for the problem's text.
        @raise Problem: 403.
        """
        problem = self._access.check_page(deed, arguments)
        if problem is not None:
            raise problem

    def call(self, operation: Operation, arguments: Arguments) -> Call:
        """
        Return the call of C{operation} with C{arguments}.

        @raise Problem: the first reason to refuse it: 403 for a page of another origin or a
            prefetch, 401 for the token, 400 for a malformed key or precondition.
        """
        committer, transition = self._committer, operation.transition
        any_host = self._hosts.answers_to(arguments.get(HOST, (None,))[0])
        any_time = any_host and self._limit is None
        if transition is None:
            found = conditions(arguments)
            return Call(committer.read, operation.method, found, any_host, any_time)
        self.check_page("move the cursor", arguments)
        if operation.ahead:
            raise problems.not_on_purpose()
        problem = self._access.check_token(arguments)
        if problem is not None:
            raise problem
        key = key_of(arguments)
        found = conditions(arguments)
        condition = None if found is UNCONDITIONAL else found.met_by
        start = partial(committer.step, Step(transition, key, condition))
        return Call(start, operation.method, found, any_host, any_time)

    def bind(self, operation: Operation, arguments: Arguments) -> Call | None:
        """
        Return the call for requests that have the same arguments each time.

        @return: C{None} if it is refused: then every such request is checked anew.
        """
        try:
            return self.call(operation, arguments)
        except Problem:
            return None
