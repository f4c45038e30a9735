"""
A program that steps by many clients at once, and records the outcome of each call.

C{python -m tests.labs.client.callers SECONDS CALLERS FILE URL...} is started by
L{tests.labs.client.lab}.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import Factory, asdict, define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from pexservice.client import Cursor, CursorError
from pexservice.client.connecting import make_endpoint, make_pool
from pexservice.core.base_url import BaseURL

#: Far more than anything should take: nothing may end by it.  Seconds.
DEADLINE = 120.0


@define(eq=False)
class Calls:
    """
    The record of all callers of a process.

    @ivar begun: how many steps were asked for.
    @ivar answers: of each answered step, revision, position, transition and seconds.
    @ivar replayed: how many of them had been made when they were sent again.
    @ivar requests: how many requests were sent.
    @ivar keys: how many idempotency keys these had.
    @ivar failures: calls that ended in another way.
    """

    begun: int = 0
    answers: list[tuple[int, int, str, float]] = Factory(list)
    replayed: int = 0
    requests: int = 0
    keys: int = 0
    failures: list[str] = Factory(list)


@implementer(IAgent)
class Listening:
    """
    An agent that writes down the idempotency keys of the requests that it sends.
    """

    def __init__(self, agents: Mapping[bytes, IAgent]) -> None:
        """
        @param agents: the agents that send the requests, by the host and the port.
        """
        self._agents = agents
        self.keys: list[bytes] = []

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: Any = None,
    ) -> Deferred[Any]:
        """
        Write down the request's key, and send it by the agent for its address.
        """
        assert headers is not None
        agent = self._agents[uri.split(b"/")[2]]
        self.keys += headers.getRawHeaders(b"idempotency-key", [])
        sent: Deferred[Any] = agent.request(method, uri, headers, bodyProducer)
        return sent


async def call(cursor: Cursor, calls: Calls, end: float, number: int) -> None:
    """
    Step until the time is over.
    """
    choose = random.Random(number)  # noqa: S311 nothing secret
    while time.monotonic() < end:
        word = choose.choices(["next", "previous", "reset"], [60, 39, 1])[0]
        calls.begun += 1
        began = time.monotonic()
        try:
            state = await getattr(cursor, word)()
        except CursorError as error:
            calls.failures.append(f"{type(error).__name__}: {error}")
            continue
        took = time.monotonic() - began
        calls.answers.append((state.revision, state.position, word, took))
        calls.replayed += state.replayed


async def make_calls(
    reactor: Any, seconds: float, callers: int, urls: Sequence[str]
) -> Calls:
    """
    Step for so many seconds.
    """
    calls, pools = Calls(), [make_pool(reactor, callers) for _ in urls]
    listening = Listening(
        {
            urlsplit(url).netloc.encode(): Agent.usingEndpointFactory(
                reactor, make_endpoint(BaseURL.parse(url), reactor, None), pool
            )
            for url, pool in zip(urls, pools, strict=True)
        }
    )
    # Each cursor begins with another address.
    cursors = [
        Cursor(
            *urls[turn:],
            *urls[:turn],
            reactor=reactor,
            agent=listening,
            deadline=DEADLINE,
        )
        for turn in range(len(urls))
    ]
    end = time.monotonic() + seconds
    await gatherResults(
        [
            Deferred.fromCoroutine(call(cursors[number % len(cursors)], calls, end, number))
            for number in range(callers)
        ]
    )
    for pool in pools:
        await pool.closeCachedConnections()
    calls.requests, calls.keys = len(listening.keys), len(set(listening.keys))
    return calls


def main(reactor: Any, seconds: str, callers: str, file: str, *urls: str) -> Deferred[Any]:
    """
    Step, and put the record in a file.
    """
    making = Deferred.fromCoroutine(make_calls(reactor, float(seconds), int(callers), urls))
    return making.addCallback(
        lambda calls: Path(file).write_text(json.dumps(asdict(calls)))
    )


if __name__ == "__main__":
    react(main, sys.argv[1:])
