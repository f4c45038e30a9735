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

from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import State
from pexservice.process.scoreboard import Score
from pexservice.web.pacing import Later
from pexservice.web.problems import too_many_streams
from pexservice.web.representations import state_json
from pexservice.web.responses import Header, Sink

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

#: The headers of a stream.  Its connection ends with it, since to HTTP/1.0 the end of a
#: stream is that of its connection.
HEADERS: tuple[Header, ...] = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    # nginx would keep events until it has some kilobytes of them.
    (b"X-Accel-Buffering", b"no"),
)


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


class Stream:
    """
    The stream of events to one client; see L{responses.Stream}.

    @ivar shown: the state that the client was sent last, or knew when it came.
    @ivar takes: whether the client takes what it is sent.
    @ivar rests: whether the next look passes over the stream, because its first event was
        sent since the last one.
    @ivar workers: the event about the workers that the client was sent last; C{None} for a
        client that did not ask for them.
    """

    _sink: Sink | None = None

    def __init__(self, events: Events, beginning: bytes, shown: State) -> None:
        self._events = events
        self._beginning = beginning
        self.shown = shown
        self.takes = True
        self.rests = False
        self.workers: bytes | None = None

    def begin(self, sink: Sink) -> None:
        self._sink = sink
        sink.send(self._beginning)
        self._events.begun(self)

    def send(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.send(data)

    def end(self) -> None:
        """
        End the stream; a client that has not taken what was sent does not get that.
        """
        self._events.leave(self)
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self.takes:
            sink.end()
        else:
            sink.abort()

    def pause(self) -> None:
        self.takes = False

    def resume(self) -> None:
        self.takes = True

    def stop(self) -> None:
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
        self, known: Sequence[bytes] | None, *, client: str, workers: bool = False
    ) -> Stream:
        """
        Return a new stream, which takes one of the places for streams.

        @param known: the values of the request's C{Last-Event-ID}, if it has one.
        @param client: the name under which the client's streams are counted.
        @param workers: whether the stream has events about the workers too.
        @raise Problem: there are too many streams.
        """
        if len(self._streams) >= self.most:
            self._make_room(client)
        state = self._committer.visible
        about_workers = self._workers() if workers else None
        beginning = b"retry: %d\n\n%b" % (RETRY, about_workers or b"")
        if known != [b"%d" % state.revision]:
            beginning += event(state)
        stream = Stream(self, beginning, state)
        stream.workers = about_workers
        self._streams[stream] = client
        return stream

    def begun(self, stream: Stream) -> None:
        """
        Take note that C{stream} has sent its first event.
        """
        if self._closed:
            # A browser comes back to a stream that ends, and to no other response.
            stream.end()
        elif self._looks:
            stream.rests = True
        else:
            self._look_later()

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
            if state.revision < stream.shown.revision:
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
