"""
A client of a service, for programs that run Twisted's reactor.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from twisted.internet.defer import DeferredList
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent

from pexservice.client.connecting import make_endpoint, make_pool
from pexservice.client.errors import BadAddress, CursorError, OutcomeUnknown, Unanswered
from pexservice.client.events import EventStream, watch
from pexservice.client.responses import (
    ReceivedResponse,
    page_of,
    read_response,
    state_of,
)
from pexservice.client.retrying import ClientRequest, RetryingClient
from pexservice.client.state import State, Step
from pexservice.core.base_url import DEFAULT_BASE_URL, BaseURL

#: The defaults of L{Cursor} and C{BlockingCursor}.
DEADLINE_SECONDS = 30.0
TIMEOUT_SECONDS = 10.0
MAX_IDLE_CONNECTIONS = 64

#: How long L{Cursor.close} waits for the servers to close their ends of the connections.
CLOSE_TIMEOUT_SECONDS = 2.0

#: The service's limit for one page of the history.
_MAX_PAGE_STEPS = 1000

_KEY_FORM = re.compile(r"[!-~]{1,255}", re.ASCII)
_TOKEN_FORM = re.compile(r"[!-~]+", re.ASCII)


def new_key() -> str:
    return str(uuid.uuid4())


class Cursor:
    """
    A client that reads and moves the cursor of a service.

    The client sends a step until a final response arrives or the deadline passes, each time
    with the same idempotency key.  The service accepts only one step with a key, so no step
    is made twice, even if connections break and workers end.  If a step raises
    L{OutcomeUnknown<pexservice.client.OutcomeUnknown>}, repeat it with the key in this
    exception.

    All exceptions are subclasses of L{CursorError<pexservice.client.CursorError>}.

    @ivar deadline: how long a call may take with all its attempts, in seconds.
    """

    def __init__(
        self,
        *urls: str,
        token: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        timeout: float = TIMEOUT_SECONDS,
        ca_file: str | None = None,
        connections: int = MAX_IDLE_CONNECTIONS,
        on_retry: Callable[[str], object] | None = None,
        reactor: Any = None,
        agent: IAgent | None = None,
    ) -> None:
        """
        Make a client.  It connects to the service at its first call.

        @param urls: base URLs that lead to the same cursor, for example one for each node
            of a cluster.  The client tries them in turn.
        @param token: the token for a service that requires one.
        @param deadline: how long a call may take with all its attempts, in seconds.
        @param timeout: how long one attempt may take, in seconds.
        @param ca_file: a PEM file of authorities to trust instead of the system's.
        @param connections: how many idle connections to each URL stay open.
        @param on_retry: called with the reason of each failed attempt, before the next one.
        @param reactor: by default, the reactor that Twisted has installed.
        @param agent: the agent that sends all requests; by default, an agent for each URL.
        @raise BadAddress: an argument cannot be used.
        """
        if reactor is None:
            # This import installs a reactor, so it must not come earlier.
            from twisted.internet import reactor  # noqa: PLC0415
        _require_positive("deadline", deadline)
        _require_positive("timeout", timeout)
        _require_positive("connections", connections)
        headers = {"Accept": "application/json"}
        if token is not None:
            if not _TOKEN_FORM.fullmatch(token):
                raise BadAddress("the token must consist of visible ASCII characters")
            headers["Authorization"] = f"Bearer {token}"
        self._pools: list[HTTPConnectionPool] = []
        servers: list[tuple[BaseURL, IAgent]] = []
        for url in urls or (DEFAULT_BASE_URL,):
            try:
                server = BaseURL.parse(url)
            except ValueError as error:
                raise BadAddress(str(error)) from error
            # Each server has its own pool, because a pool finds connections by their hosts,
            # and all Unix sockets have the same host.
            pool = make_pool(reactor, connections)
            self._pools.append(pool)
            server_agent = agent or Agent.usingEndpointFactory(
                reactor, make_endpoint(server, reactor, ca_file), pool
            )
            servers.append((server, server_agent))
        self._client = RetryingClient(
            reactor, servers, headers, timeout, on_retry or (lambda _: None)
        )
        self.deadline = deadline
        self._streams: set[EventStream] = set()

    def __repr__(self) -> str:
        servers = " ".join(str(server) for server, _ in self._client.servers)
        return f"<{type(self).__name__} {servers}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """
        Close all connections, and end all watches of the cursor.
        """
        self._client.closed = True
        for stream in list(self._streams):
            stream.end()
        closing = DeferredList([pool.closeCachedConnections() for pool in self._pools])
        # A server may keep its end of a TLS connection open, so the wait has a timeout.
        await closing.addTimeout(CLOSE_TIMEOUT_SECONDS, self._client.clock, lambda *_: None)

    @property
    def performed_nothing(self) -> bool:
        """
        Whether it is certain that no server performed a request of this client.

        False until the client is closed, because another request may follow until then.
        """
        return self._client.closed and self._client.possibly_performed == 0

    async def current(self, *, deadline: float | None = None) -> State:
        """
        Return the state of the cursor.

        @param deadline: how long this call may take, in seconds, instead of the client's
            deadline.
        @raise Unanswered: no final response arrived before the deadline.
        """
        return state_of(await self._call(ClientRequest(b"GET", "/current"), deadline))

    async def next(
        self,
        *,
        if_revision: int | None = None,
        key: str | None = None,
        deadline: float | None = None,
    ) -> State:
        """
        Move from position n to n + 1, once.

        @param if_revision: make the step only if the cursor is at this revision.
        @param key: the key of an earlier call whose outcome is unknown; by default, a new
            random key.
        @param deadline: how long this call may take, in seconds, instead of the client's
            deadline.
        @return: the state after the step.
        @raise Moved: the cursor is not at C{if_revision}.
        @raise OutcomeUnknown: no final response arrived before the deadline.
        @raise BadAddress: the key is not 1 to 255 visible ASCII characters.
        """
        return await self._step("next", if_revision, key, deadline)

    async def previous(
        self,
        *,
        if_revision: int | None = None,
        key: str | None = None,
        deadline: float | None = None,
    ) -> State:
        """
        Move from position n to n - 1, or stay at 0, once.  See L{next}.
        """
        return await self._step("previous", if_revision, key, deadline)

    async def reset(
        self,
        *,
        if_revision: int | None = None,
        key: str | None = None,
        deadline: float | None = None,
    ) -> State:
        """
        Move to position 0, once.  See L{next}.
        """
        return await self._step("reset", if_revision, key, deadline)

    async def history(
        self, *, before: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Step]:
        """
        Yield the steps that the service remembers, newest first.

        The client reads a page of the history when the program needs a step of this page.

        @param before: yield only steps whose revisions are lower.
        @param limit: yield at most this many steps; by default, all.
        @raise Unanswered: no final response arrived before the deadline.
        """
        while limit is None or limit > 0:
            size = _MAX_PAGE_STEPS if limit is None else min(limit, _MAX_PAGE_STEPS)
            path = f"/history?limit={size}"
            if before is not None:
                path += f"&before={before}"
            response = await self._call(ClientRequest(b"GET", path), None)
            steps, more = page_of(response, before)
            for step in steps:
                yield step
            if not more:
                return
            before = steps[-1].revision
            if limit is not None:
                limit -= len(steps)

    def watch(self) -> AsyncIterator[State]:
        """
        Yield the present state of the cursor, and then newer states, for ever.

        If states arrive faster than the program reads them, the program gets only the
        newest.  The revision of each state is higher than the one before, unless the store
        was restored.  If the connection breaks, the client opens another one.

        @raise CursorError: the server refuses the request, or is no pexservice.
        """
        return watch(self._client, self._streams)

    async def _call(
        self, request: ClientRequest, deadline: float | None
    ) -> ReceivedResponse:
        timeout = self.deadline if deadline is None else deadline
        _require_positive("deadline", timeout)
        return await self._client.call(request, timeout, read_response)

    async def _step(
        self, name: str, if_revision: int | None, key: str | None, deadline: float | None
    ) -> State:
        if key is None:
            key = new_key()
        elif not _KEY_FORM.fullmatch(key):
            raise BadAddress("a key must have 1 to 255 visible ASCII characters")
        headers = {"Idempotency-Key": key}
        if if_revision is not None:
            headers["If-Match"] = f'"{if_revision}"'
        request = ClientRequest(b"POST", f"/{name}", headers)
        try:
            return state_of(await self._call(request, deadline))
        except Unanswered as error:
            raise unanswered_step(name, key, error) from error
        except CursorError as error:
            error.key = key
            raise


def _require_positive(name: str, number: float) -> None:
    # The comparison is also false for "not a number".
    if not number > 0:
        raise BadAddress(f"{name} must be more than 0, not {number:g}")


def unanswered_step(name: str, key: str, error: Unanswered) -> OutcomeUnknown:
    """
    Return the exception for a step that got no final response.

    @param name: C{next}, C{previous} or C{reset}.
    @param error: the exception of the request, whose message does not name the step.
    """
    if error.maybe_performed:
        message = (
            f"it is unknown whether {name} was made: {error}; to find out, repeat it with"
            f" the key {key}: it is never made twice"
        )
    else:
        message = f"{name} was not made by this call: {error}"
    return OutcomeUnknown(message, key=key, maybe_performed=error.maybe_performed)
