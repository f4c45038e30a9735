"""
C{watch}, which follows a cursor by Server-Sent Events, over connections that may break.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable
from functools import partial

from twisted.internet.defer import DeferredQueue
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from pexservice.client.errors import CursorError
from pexservice.client.responses import (
    OK,
    ReceivedResponse,
    close,
    error_of,
    read_response,
    state_of,
)
from pexservice.client.retrying import CLOSED, ClientRequest, RetryingClient, backoff
from pexservice.client.state import State

#: How long a stream may be silent.  A service sends a heartbeat every 15 seconds.
SILENCE_TIMEOUT_SECONDS = 45

#: A stream with a longer event ends.  A service's event has at most 3 x 1000 digits.
MAX_EVENT_BYTES = 64 << 10

#: The client decodes the data of an event like a response with these headers.
_EVENT_HEADERS = {"content-type": "application/json"}


def message_of(event: bytes) -> str | None:
    """
    Return the data of an event.

    @return: C{None} if the event is no message, for example a heartbeat.
    """
    fields: dict[str, list[str]] = {"data": [], "event": [""]}
    for line in event.decode("utf-8", "replace").split("\n"):
        name, _, value = line.removesuffix("\r").partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    if not fields["data"] or fields["event"][-1] not in ("", "message"):
        return None
    return "\n".join(fields["data"])


class EventStream(Protocol, TimeoutMixin):
    """
    The body of a response that is a stream of events.

    @ivar url: the URL of the request, for messages.
    @ivar messages: a queue with at most one message, the newest that the program has not
        read.  After the last message, it has C{None}.
    @ivar ended: whether no more messages will arrive.
    """

    def __init__(self, clock: IReactorTime, url: str) -> None:
        self.url = url
        self.messages: DeferredQueue[str | None] = DeferredQueue()
        self.ended = False
        self._clock = clock
        self._incomplete = b""

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        return self._clock.callLater(period, func)

    def connectionMade(self) -> None:
        self.setTimeout(SILENCE_TIMEOUT_SECONDS)

    def dataReceived(self, data: bytes) -> None:
        self.resetTimeout()
        *events, self._incomplete = re.split(rb"\r?\n\r?\n", self._incomplete + data)
        messages = [message for event in events if (message := message_of(event))]
        if messages and not self.ended:
            # A program that is slower than the stream gets only the newest message.
            self.messages.pending.clear()
            self.messages.put(messages[-1])
        if len(self._incomplete) > MAX_EVENT_BYTES:
            self.end()

    def timeoutConnection(self) -> None:
        self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end()

    def end(self) -> None:
        """
        End the stream, and close its connection.
        """
        if not self.ended:
            self.ended = True
            self._incomplete = b""
            self.setTimeout(None)
            close(self)
            self.messages.put(None)


async def watch(client: RetryingClient, streams: set[EventStream]) -> AsyncIterator[State]:
    """
    Yield the present state of the cursor, and then newer states.

    This function reads the present state before it opens a stream.  The stream may come
    from another node of a cluster.  This node may send older states, which this function
    skips.  But a read returns the present state of the store.  If a read has a lower
    revision, the store was restored, so this function yields the state.

    @param streams: the set of open streams, whose owner may end them.
    @raise CursorError: the server refuses the request, or is no pexservice; or the client
        was closed before.
    """
    if client.closed:
        raise CursorError(CLOSED)
    latest: State | None = None
    failures = 0
    receive_stream = partial(_receive_stream, client.clock)
    while not client.closed:
        try:
            read = ClientRequest(b"GET", "/current")
            state = state_of(await client.call(read, math.inf, read_response))
            if state != latest:
                latest = state
                yield state
            headers = {
                "Accept": "text/event-stream",
                "Last-Event-ID": str(latest.revision),
            }
            request = ClientRequest(b"GET", "/events", headers)
            stream = await client.call(request, math.inf, receive_stream)
        except CursorError:
            if client.closed:
                return
            raise
        streams.add(stream)
        try:
            while (message := await stream.messages.get()) is not None:
                state = state_of(
                    ReceivedResponse(stream.url, OK, _EVENT_HEADERS, message.encode())
                )
                if state.revision > latest.revision:
                    latest, failures = state, 0
                    yield state
        finally:
            streams.discard(stream)
            stream.end()
        await deferLater(client.clock, backoff(failures))
        failures += 1


async def _receive_stream(
    clock: IReactorTime, response: IResponse, url: str
) -> EventStream:
    types = response.headers.getRawHeaders(b"content-type", [b""])
    if not types[-1].startswith(b"text/event-stream"):
        raise error_of(await read_response(response, url))
    stream = EventStream(clock, url)
    response.deliverBody(stream)
    return stream
