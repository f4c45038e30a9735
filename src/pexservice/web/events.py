"""
Server-Sent Events: the cursor whenever it moves.

A stream carries states, not transitions: a client that cannot take all of them gets the
newest and never one behind it, so what is kept for a stream is whether its client takes
anything.  The committer is not told of streams.  One timer, which runs while there are any
streams, looks whether the cursor is still where it was, and a step costs nothing more than
when nobody watches.

With C{?workers} a stream also has events of the type C{workers}: which worker serves, and
what became of the one before it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.web.http import Request
from zope.interface import implementer

from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import State
from pexservice.process.scoreboard import Score
from pexservice.web.pacing import Later
from pexservice.web.problems import too_many_streams
from pexservice.web.representations import state_json

#: How many streams there are at most.  Each takes a write of 12 microseconds
#: ten times a second, so all of them 3 % of the time, and 12 KiB.
MOST_STREAMS = 250

#: How long a stream has nothing after an event.  Seconds.
INTERVAL = 0.1

#: A heartbeat is sent after this many intervals: every 15 seconds.  It is an event and
#: not a comment, which a browser would not show to the page; so a page whose network is
#: gone notices the silence.  Proxies close connections that are silent for too long.
HEARTBEAT_INTERVALS = 150

#: After how long a client connects again.  Milliseconds.
RETRY = 500

#: A value of more digits is left out, and told by its ends: a million digits ten
#: times a second are more than a page can take.
MOST_DIGITS = 1000
ENDS = 32

_HEADERS = {
    b"Content-Type": [b"text/event-stream"],
    b"Cache-Control": [b"no-store"],
    # To HTTP/1.0 the end of a stream is that of its connection; so it is to all.
    b"Connection": [b"close"],
    # nginx would keep events until it has some kilobytes of them.
    b"X-Accel-Buffering": [b"no"],
}


def event(state: State) -> bytes:
    """
    Return C{state} as an event.
    """
    return b"id: %d\ndata: %b\n\n" % (state.revision, _data(state))


def heartbeat_event(state: State) -> bytes:
    """
    Return a heartbeat.

    It has the state, so that a client which ignores the types of events can read it, and
    no id.
    """
    return b"event: heartbeat\ndata: %b\n\n" % _data(state)


def workers_event(score: Score) -> bytes:
    """
    Return the supervisor's score as an event; without an id, for it is not the cursor.
    """
    since = datetime.fromtimestamp(score.since / 1000, UTC)
    shown = {
        "serving": score.serving or None,
        "since": f"{since:%Y-%m-%dT%H:%M:%S}.{score.since % 1000:03}Z",
        "before": score.before or None,
        "pause": score.pause / 1e6,
        "standing_by": score.standing_by,
        "standby": score.standby,
        "takeovers": score.failovers,
    }
    data = json.dumps(shown, separators=(",", ":"))
    return f"event: workers\ndata: {data}\n\n".encode()


def _data(state: State) -> bytes:
    term = state.term
    if term.size <= MOST_DIGITS:
        return state_json(state).rstrip(b"\n")
    return b'{"position":%d,"digits":%d,"first":"%b","last":"%b","revision":%d}' % (
        term.position,
        term.size,
        term.text[:ENDS],
        term.text[-ENDS:],
        state.revision,
    )


@implementer(IPushProducer)
class Stream:
    """
    The stream of events to one client.

    @ivar shown: the state that the client was sent last, or knew when it came.
    @ivar takes: whether the client takes what it is sent.
    @ivar rests: whether the stream is passed over at the next look, for its first event was
        since the last one.
    @ivar workers: the event about the workers that the client was sent last; C{None} for a
        client that did not ask for them.
    @ivar ended: fires when nothing more comes.
    """

    def __init__(self, request: Request, events: Events) -> None:
        self._request = request
        self._events = events
        self.shown: State | None = None
        self.takes = True
        self.rests = False
        self.workers: bytes | None = None
        self.ended: Deferred[None] = Deferred(lambda _: events.leave(self))

    def begin(self, state: State, *, known: bool) -> None:
        """
        Send the head, and C{state} if it is not C{known}.
        """
        for name, values in _HEADERS.items():
            self._request.responseHeaders.setRawHeaders(name, values)
        self._request.registerProducer(self, True)  # noqa: FBT003 streaming
        self.shown = state
        beginning = b"retry: %d\n\n%b" % (RETRY, self.workers or b"")
        self._request.write(beginning if known else beginning + event(state))

    def send(self, data: bytes) -> None:
        """
        Send C{data}.
        """
        self._request.write(data)

    def end(self) -> None:
        """
        End the stream; a client that has not taken what was sent does not get that.
        """
        self._events.leave(self)
        self._request.unregisterProducer()
        if not self.takes:
            cast(ITCPTransport, self._request.transport).abortConnection()
        elif not self.ended.called:
            self.ended.callback(None)

    def pauseProducing(self) -> None:
        """
        Record that the client does not take what it is sent.
        """
        self.takes = False

    def resumeProducing(self) -> None:
        """
        Record that the client takes what it is sent.
        """
        self.takes = True

    def stopProducing(self) -> None:
        """
        End the stream: its client is gone, or will send no more.
        """
        self.end()


class Events:
    """
    The streams of one worker.
    """

    def __init__(
        self,
        committer: ICommitter,
        later: Later,
        most: int = MOST_STREAMS,
        score: Callable[[], Score | None] = lambda: None,
    ) -> None:
        """
        Make the record of a worker's streams, empty at first.

        @param later: the reactor's C{callLater}.
        @param most: how many streams there may be.
        @param score: reads the supervisor's score, if there is a supervisor.
        """
        self._committer = committer
        self._later = later
        self.most = most
        self._score = score
        # The streams in the order in which they were opened, each with its client.
        self._streams: dict[Stream, str] = {}
        self._looks = False
        self._closed = False
        # How many intervals have passed since the last heartbeat.
        self._intervals = 0

    def __len__(self) -> int:
        return len(self._streams)

    def open(
        self,
        request: Request,
        known: Sequence[bytes] | None,
        *,
        client: str,
        workers: bool = False,
    ) -> Deferred[None]:
        """
        Answer C{request} with a stream.

        @param known: the values of its C{Last-Event-ID}, if it has one.
        @param client: the name under which the client's streams are counted.
        @param workers: whether the stream has events about the workers too.
        @return: fires when the stream has ended, and its answer is to be finished.
        @raise Problem: there are too many streams.
        """
        if len(self._streams) >= self.most:
            self._make_room(client)
        stream = Stream(request, self)
        self._streams[stream] = client
        stream.workers = self._workers() if workers else None
        state = self._committer.visible
        stream.begin(state, known=known == [b"%d" % state.revision])
        if self._closed:
            # A browser comes back to a stream that ends, and to no other answer.
            stream.end()
        elif self._looks:
            stream.rests = True
        else:
            self._look_later()
        return stream.ended

    def _make_room(self, client: str) -> None:
        """
        End the oldest stream of the client that has the most.

        That client must have at least two streams more than C{client}, or the two would
        end each other's streams in turns.  The clients of a proxy that does not name them
        count as C{""}, and lose no streams.

        @raise Problem: no client has so many.
        """
        counts = Counter(self._streams.values())
        own_count = counts[client]
        del counts[""]
        for greedy, count in counts.most_common(1):
            if count >= own_count + 2:
                next(s for s, name in self._streams.items() if name == greedy).end()
                return
        raise too_many_streams(self.most)

    def leave(self, stream: Stream) -> None:
        """
        Forget C{stream}, which has ended.
        """
        self._streams.pop(stream, None)

    def close(self) -> None:
        """
        End all streams, and each that is opened after this with its first event.
        """
        self._closed = True
        for stream in list(self._streams):
            stream.end()

    def _look_later(self) -> None:
        # Counted from now, so that a look which came late is not followed by another
        # too soon.
        self._looks = True
        self._later(INTERVAL, self._look)

    def _workers(self) -> bytes:
        score = self._score()
        return b"" if score is None else workers_event(score)

    def _look(self) -> None:
        self._looks = False
        if not self._streams:
            return
        self._look_later()
        state = self._committer.visible
        self._intervals = (self._intervals + 1) % HEARTBEAT_INTERVALS
        heartbeat = b"" if self._intervals else heartbeat_event(state)
        data = b""
        watched = any(stream.workers is not None for stream in self._streams)
        workers = self._workers() if watched else b""
        for stream in list(self._streams):
            if stream.rests or not stream.takes:
                stream.rests = False
                continue
            if stream.workers is not None and stream.workers != workers:
                stream.workers = workers
                stream.send(workers)
            if stream.shown is not None and state.revision < stream.shown.revision:
                # The store was restored, and the client's revision is of another history.
                # The client connects again, and gets the present state.
                stream.end()
                continue
            if stream.shown is not state:
                data = data or event(state)
                stream.shown = state
                stream.send(data)
            if heartbeat:
                stream.send(heartbeat)
