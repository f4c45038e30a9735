"""
Server-Sent Events, as they come in.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from pexservice.client.bodies import abort

#: How long a stream may be silent: a service sends a heartbeat every 15 seconds.
SILENCE = 45.0

#: The longest event.  Bytes: those of a service have three values of 1000 digits.
LONGEST = 1 << 16


class TooLong(ValueError):
    """
    An event of more than L{LONGEST} bytes.
    """


class EventParser:
    """
    A parser that makes events, each of which is its data, from the bytes of a stream.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._size = 0
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """
        Return the events that are complete now.

        @raise TooLong: the event that is not complete yet is too long already.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        if len(self._rest) + self._size > LONGEST:
            raise TooLong(f"an event of more than {LONGEST} bytes")
        return events

    def _line(self, line: str) -> str | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._size += len(value)
            self._data.append(value)
        elif not line and self._data:
            event = "\n".join(self._data)
            self._data, self._size = [], 0
            return event
        return None


class EventStream(Protocol):
    """
    The body of an answer that is a stream of events.

    A reader that is slower than the stream gets the newest event only.

    @ivar ended: why there will be no more events, or C{None}.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._parser = EventParser()
        self._newest: str | None = None
        self._waiting: Deferred[str | None] | None = None
        self._silence: IDelayedCall | None = None
        self.ended: str | None = None

    def connectionMade(self) -> None:
        """
        Start the timer that ends a silent stream.
        """
        self._silence = self._clock.callLater(
            SILENCE, self.end, f"{SILENCE:g} s of silence"
        )

    def dataReceived(self, data: bytes) -> None:
        """
        Take a part of the stream.
        """
        if self.ended is not None:
            return
        cast(IDelayedCall, self._silence).reset(SILENCE)
        try:
            events = self._parser.feed(data)
        except TooLong as error:
            self.end(str(error))
            return
        if events:
            self._newest = events[-1]
            self._deliver()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        End the stream with its connection.
        """
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
        abort(self)
        self._deliver()

    def next(self) -> Deferred[str | None]:
        """
        Return a Deferred that fires with the newest event that was not returned yet.

        The Deferred fires with C{None} when there will be no more events.
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
            event, self._newest, self._waiting = self._newest, None, None
            waiting.callback(event)
