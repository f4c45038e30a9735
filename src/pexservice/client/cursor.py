"""
The cursor of a service, as a program sees it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

from treq.client import HTTPClient
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IAgent

from pexservice.client.addresses import Address, parse_address
from pexservice.client.answers import Answer, state_of, steps_of
from pexservice.client.calling import Call, Caller, Server
from pexservice.client.connecting import make_agent, make_pool
from pexservice.client.errors import BadAddress, CursorError, OutcomeUnknown, Unanswered
from pexservice.client.event_stream import EventStream
from pexservice.client.state import State, Step
from pexservice.client.watching import watch

#: The URL of the service where a cursor is given none.
URL = "http://127.0.0.1:8081"

#: How long a call may take, and one attempt of it.  Seconds.
DEADLINE = 30.0
TIMEOUT = 10.0

#: How many connections are kept to each service.
CONNECTIONS = 64

#: The largest page of the history.
_PAGE = 1000

_VISIBLE = re.compile(r"[!-~]{1,255}", re.ASCII)


class Cursor:
    """
    The cursor of a service.

    Every step has a key and is sent again with it until it is answered or its deadline is
    over, so it is made once, whatever happens to connections, proxies and workers.
    """

    def __init__(
        self,
        *urls: str,
        token: str | None = None,
        deadline: float = DEADLINE,
        timeout: float = TIMEOUT,
        ca_file: str | None = None,
        connections: int = CONNECTIONS,
        reactor: Any = None,
        agent: IAgent | None = None,
    ) -> None:
        """
        Make the cursor of the service at C{urls}, without connecting to it yet.

        @param urls: base URLs of one service, which are tried in turns: many nodes with
            one store.
        @param token: the token that lets a caller move the cursor, where the service wants
            one.
        @param deadline: how long a call may take, with all its attempts, in seconds.
        @param timeout: how long one attempt may take, in seconds.
        @param ca_file: a PEM file of authorities to trust instead of the system's.
        @param connections: how many connections are kept open to each URL.
        @param reactor: the reactor, or C{None} for the one that Twisted has installed.
        @param agent: the agent that sends all requests, instead of the client's own.
        @raise BadAddress: a URL, the token or the file cannot be used.
        """
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415 imports install it
        addresses = [parse_address(each) for each in urls or (URL,)]
        headers = {"Accept": "application/json"}
        if token is not None:
            if not token.isascii() or not re.fullmatch(r"[!-~]+", token):
                raise BadAddress("the token must be visible ASCII characters")
            headers["Authorization"] = f"Bearer {token}"
        self._deadline = deadline
        self._pools: list[HTTPConnectionPool] = []
        self._streams: set[EventStream] = set()

        def server(address: Address) -> Server:
            if agent is not None:
                return Server(address, HTTPClient(agent), address.url)
            pool = make_pool(reactor, connections)
            made = HTTPClient(make_agent(address, reactor, pool, ca_file))
            self._pools.append(pool)
            return Server(address, made, address.plain_url, {"Host": address.netloc})

        self._caller = Caller(
            reactor, [server(each) for each in addresses], headers, timeout
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """
        Close all connections, and end all watches of the cursor.
        """
        self._caller.closed = True
        for stream in list(self._streams):
            stream.end("the client is closed")
        for pool in self._pools:
            await pool.closeCachedConnections()

    async def current(self, *, deadline: float | None = None) -> State:
        """
        Return the state of the cursor.

        @param deadline: the deadline of this call, in seconds, instead of the client's.
        @raise Unanswered: there was no answer.
        @raise CursorError: the answer has no state in it.
        """
        return state_of(await self._call(Call("GET", "/current"), deadline))

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
        @param key: the key of an earlier call whose outcome is unknown; by default a new
            one.
        @param deadline: the deadline of this call, in seconds, instead of the client's.
        @return: the state after the step.
        @raise Moved: the cursor is at another revision.
        @raise OutcomeUnknown: there was no answer.
        @raise CursorError: the answer has no state in it.
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
        Return the steps that were made, newest first, read page by page as they are used.

        @param before: return only steps before this revision.
        @param limit: return at most so many steps; else all that the service has kept.
        @raise Unanswered: there was no answer.
        @raise CursorError: an answer has no steps in it.
        """
        remaining = limit
        while remaining is None or remaining > 0:
            size = _PAGE if remaining is None else min(remaining, _PAGE)
            path = f"/history?limit={size}"
            if before is not None:
                path += f"&before={before}"
            steps, more = steps_of(await self._call(Call("GET", path), None), before)
            for step in steps:
                yield step
            if not more:
                return
            before = steps[-1].revision
            if remaining is not None:
                remaining -= len(steps)

    def watch(self) -> AsyncIterator[State]:
        """
        Return the present state of the cursor, and then each state that is seen, for ever.

        States that come faster than they are used, or than the service tells them, are
        left out, never the newest; revisions only grow.  A stream that breaks is begun
        again.

        @raise CursorError: the server has no such streams.
        """
        return watch(self._caller, self._streams)

    async def _call(self, call: Call, deadline: float | None) -> Answer:
        return await self._caller.call(
            call, self._deadline if deadline is None else deadline
        )

    async def _step(
        self, word: str, if_revision: int | None, key: str | None, deadline: float | None
    ) -> State:
        if key is None:
            key = str(uuid.uuid4())
        elif not _VISIBLE.fullmatch(key):
            raise BadAddress("a key has 1 to 255 visible ASCII characters")
        headers = {"Idempotency-Key": key}
        if if_revision is not None:
            headers["If-Match"] = f'"{if_revision}"'
        try:
            return state_of(await self._call(Call("POST", f"/{word}", headers), deadline))
        except Unanswered as error:
            raise OutcomeUnknown(
                f"{word}, which may have been made or not, had {error};"
                f" call it again with the key {key}",
                key=key,
            ) from error
        except CursorError as error:
            error.key = key
            raise
