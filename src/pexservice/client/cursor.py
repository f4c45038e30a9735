"""
The cursor of a service, for programs with a reactor.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Self

from twisted.internet.defer import DeferredList
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IResponse

from pexservice.client.connecting import make_endpoint, make_pool
from pexservice.client.errors import BadAddress, CursorError, OutcomeUnknown, Unanswered
from pexservice.client.events import EventStream, watch
from pexservice.client.responses import receive_page, receive_state
from pexservice.client.retrying import Content, Request, RetryingClient
from pexservice.client.state import State, Step
from pexservice.core.base_url import DEFAULT_BASE_URL, BaseURL

#: The defaults of L{Cursor} and C{BlockingCursor}.
DEADLINE_SECONDS = 30.0
TIMEOUT_SECONDS = 10.0
MAX_IDLE_CONNECTIONS = 64

#: How long L{Cursor.close} waits until the servers have closed the connections, too.
CLOSE_TIMEOUT_SECONDS = 2.0

_MAX_PAGE_STEPS = 1000

_KEY_FORM = re.compile(r"[!-~]{1,255}", re.ASCII)
_TOKEN_FORM = re.compile(r"[!-~]+", re.ASCII)


def new_key() -> str:
    return str(uuid.uuid4())


class Cursor:
    """
    The cursor of a service.

    Every step has an idempotency key.  The client sends the step with its key until a final
    response arrives or the deadline ends.  So the step is never made twice, whatever
    happens to connections and workers.  After
    L{OutcomeUnknown<pexservice.client.OutcomeUnknown>}, repeat it with the error's key.

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
        @param on_retry: called with one line after each failed attempt that is repeated.
        @param reactor: the reactor to use instead of the one that Twisted has installed.
        @param agent: the agent that sends all requests, instead of the client's own.
        @raise BadAddress: a URL, the token or the file cannot be used.
        """
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415 imports install it
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
            # Each server has its own pool: a single pool would confuse the connections of
            # several Unix sockets, which have no host.
            pool = make_pool(reactor, connections)
            server_agent = agent or Agent.usingEndpointFactory(
                reactor, make_endpoint(server, reactor, ca_file), pool
            )
            servers.append((server, server_agent))
            self._pools.append(pool)
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
        # The timeout is needed because a server may keep its end of a TLS connection open.
        await closing.addTimeout(CLOSE_TIMEOUT_SECONDS, self._client.clock, lambda *_: None)

    @property
    def performed_nothing(self) -> bool:
        """
        Whether this client is closed, and no server can have performed one of its requests.
        """
        return self._client.closed and self._client.maybe_performed_count == 0

    async def current(self, *, deadline: float | None = None) -> State:
        """
        Return the state of the cursor.

        @param deadline: the deadline of this call, in seconds.
        @raise Unanswered: no final response arrived.
        @raise CursorError: the response contains no state.
        """
        return await self._call(Request(b"GET", "/current"), deadline, receive_state)

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
        @param key: the key of an earlier call whose outcome is unknown; a new random key by
            default.
        @param deadline: the deadline of this call, in seconds.
        @return: the state after the step.
        @raise Moved: the cursor is at another revision.
        @raise OutcomeUnknown: no final response arrived.
        @raise CursorError: the response contains no state.
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
        Yield the steps that were made, newest first; pages are read when they are needed.

        @param before: yield only steps before this revision.
        @param limit: yield at most this many steps; all that the service keeps by default.
        @raise Unanswered: no final response arrived.
        @raise CursorError: a response contains no steps.
        """
        remaining = limit
        while remaining is None or remaining > 0:
            size = _MAX_PAGE_STEPS if remaining is None else min(remaining, _MAX_PAGE_STEPS)
            path = f"/history?limit={size}"
            if before is not None:
                path += f"&before={before}"
            receive = partial(receive_page, before=before)
            page = await self._call(Request(b"GET", path), None, receive)
            for step in page.steps:
                yield step
            if not page.more:
                return
            before = page.steps[-1].revision
            if remaining is not None:
                remaining -= len(page.steps)

    def watch(self) -> AsyncIterator[State]:
        """
        Yield the present state of the cursor, and then each newer one, for ever.

        If states arrive faster than the program reads them, older ones are left out, never
        the newest.  Revisions only grow.  A stream that breaks is opened again.

        @raise CursorError: the server has no such streams.
        """
        return watch(self._client, self._streams)

    async def _call(
        self,
        request: Request,
        deadline: float | None,
        receive: Callable[[IResponse, str], Awaitable[Content]],
    ) -> Content:
        if deadline is None:
            deadline = self.deadline
        return await self._client.call(request, deadline, receive)

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
        request = Request(b"POST", f"/{name}", headers)
        try:
            return await self._call(request, deadline, receive_state)
        except Unanswered as error:
            raise outcome_unknown(name, key, error) from error
        except CursorError as error:
            error.key = key
            raise


def outcome_unknown(step: str, key: str, error: Unanswered) -> OutcomeUnknown:
    """
    Return the exception for the step C{step} that ended with C{error}.
    """
    message = f"{step} was not made by this call: {error}"
    if error.maybe_performed:
        message = (
            f"it is unknown whether {step} was made: {error}; to find out, repeat it with"
            f" the key {key}: it is never made twice"
        )
    return OutcomeUnknown(message, key=key, maybe_performed=error.maybe_performed)
