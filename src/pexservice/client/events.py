"""
The watch of a cursor: Server-Sent Events, over connections that may break.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from pexservice.client.responses import (
    OK,
    Response,
    close,
    read_response,
    refuse,
    state_of,
)
from pexservice.client.retrying import (
    RETRIED_ERRORS,
    RETRIED_STATUSES,
    Request,
    RetryingClient,
    retry_after,
)
from pexservice.client.state import State

#: How long a stream may be silent: a service sends a heartbeat every 15 seconds.
SILENCE_TIMEOUT_SECONDS = 45.0

#: The events of a service have three values of at most 1000 digits.
MAX_EVENT_BYTES = 64 << 10

#: An event is read like a response with these headers.
_HEADERS = {"content-type": "application/json"}


class EventTooLong(ValueError):
    """
    An event has more than L{MAX_EVENT_BYTES} bytes.
    """


class EventParser:
    """
    A parser that turns the bytes of a stream into the data of its messages.

    Events of other types, for example heartbeats, are left out.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._type = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """
        Return the data of the messages that C{data} completes.

        @raise EventTooLong: the incomplete event is too long already.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = []
        for line in lines:
            message = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if message is not None:
                messages.append(message)
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return messages

    def _line(self, line: str) -> str | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value) + 1
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif not line:
            data, kind = self._data, self._type
            self._data, self._size, self._type = [], 0, ""
            if data and kind in ("", "message"):
                return "\n".join(data)
        return None


class EventStream(Protocol):
    """
    The body of a response that is a stream of events.

    A reader that is slower than the stream receives the newest message only.

    @ivar ended: why there will be no more messages, or C{None}.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._parser = EventParser()
        self._newest: str | None = None
        self._waiting: Deferred[str | None] | None = None
        self._silence: IDelayedCall | None = None
        self.ended: str | None = None

    def connectionMade(self) -> None:
        self._silence = self._clock.callLater(
            SILENCE_TIMEOUT_SECONDS, self.end, f"{SILENCE_TIMEOUT_SECONDS:g} s of silence"
        )

    def dataReceived(self, data: bytes) -> None:
        if self.ended is not None:
            return
        cast(IDelayedCall, self._silence).reset(SILENCE_TIMEOUT_SECONDS)
        try:
            messages = self._parser.feed(data)
        except EventTooLong as error:
            self.end(str(error))
            return
        if messages:
            self._newest = messages[-1]
            self._deliver()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end("the stream ended")

    def end(self, reason: str) -> None:
        """
        End the stream for C{reason}, and close its connection.
        """
        if self.ended is not None:
            return
        self.ended = reason
        if self._silence is not None and self._silence.active():
            self._silence.cancel()
        close(self)
        self._deliver()

    def next(self) -> Deferred[str | None]:
        """
        Return a Deferred that fires with the newest undelivered message.

        It fires with C{None} when there will be no more messages.
        """
        waiting: Deferred[str | None] = Deferred(self._forget)
        self._waiting = waiting
        self._deliver()
        return waiting

    def _forget(self, _: object) -> None:
        self._waiting = None

    def _deliver(self) -> None:
        waiting = self._waiting
        if waiting is not None and (self._newest is not None or self.ended is not None):
            message, self._newest, self._waiting = self._newest, None, None
            waiting.callback(message)


async def watch(client: RetryingClient, streams: set[EventStream]) -> AsyncIterator[State]:
    """
    Yield the states of the cursor as they arrive, each of a higher revision.

    After the store was restored, the state that it has now follows, and then higher ones.

    @param streams: the open streams, which the owner of C{client} ends when it closes.
    @raise CursorError: the server has no such streams.
    """
    latest: State | None = None
    failures = 0
    for turn in count():
        headers = {"Accept": "text/event-stream"}
        if latest is not None:
            headers["Last-Event-ID"] = str(latest.revision)
        request = Request("GET", "/events", headers)
        requested_delay = 0.0
        try:
            opened = await client.attempt(
                request, turn, partial(_open, client.clock), client.timeout
            )
        except RETRIED_ERRORS:
            opened = None
        if isinstance(opened, Response):
            if opened.status not in RETRIED_STATUSES:
                refuse(opened)
            requested_delay = retry_after(opened.headers, time.time())
        elif opened is not None:
            streams.add(opened)
            try:
                async for state in _states(client, opened, turn, latest):
                    failures = 0
                    if state is not None:
                        latest = state
                        yield state
            finally:
                streams.discard(opened)
                opened.end("the watch ended")
        if client.closed:
            return
        await client.wait(max(client.backoff(failures), requested_delay))
        failures += 1


async def _states(
    client: RetryingClient, stream: EventStream, turn: int, latest: State | None
) -> AsyncIterator[State | None]:
    """
    Yield the state of each message; C{None} if it is no news after C{latest}.
    """
    first = True
    while (message := await stream.next()) is not None:
        url = client.url(Request("GET", "/events"), turn)
        state = state_of(Response(url, OK, _HEADERS, message.encode()))
        news = latest is None or state.revision > latest.revision
        if first and latest is not None and state.revision < latest.revision:
            # The node is behind, or the store was restored: a read is never behind.
            request = Request("GET", "/current")
            try:
                response = await client.attempt(
                    request, turn, read_response, client.timeout
                )
            except RETRIED_ERRORS:
                return
            if response.status in RETRIED_STATUSES:
                # The next stream begins with the same question.
                return
            state = state_of(response)
            news = state.revision < latest.revision
        first = False
        if news:
            latest = state
        yield state if news else None


def _open(
    clock: IReactorTime, response: IResponse, url: str
) -> Deferred[EventStream | Response]:
    """
    Return the stream, or the response that arrived instead.
    """
    types = response.headers.getRawHeaders(b"content-type", [b""])
    if response.code == OK and types[-1].startswith(b"text/event-stream"):
        stream = EventStream(clock)
        response.deliverBody(stream)
        return succeed(stream)
    return read_response(response, url).addCallback(lambda complete: complete)
