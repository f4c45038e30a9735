"""
Server-Sent Events: the cursor whenever it moves.

A stream sends states, not transitions.  A client that is too slow for all states gets the
newest one, so a stream needs no queue.  The committer knows nothing of streams: while there
are streams, a timer compares the cursor with the last state that each stream has sent.  So
streams do not make a step more expensive.

With C{?workers} a stream also sends events of the type C{workers}. They tell which worker
is active, and how the previous one ended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import State
from pexservice.process.scoreboard import Score
from pexservice.web import problems
from pexservice.web.fair_queue import CallLater
from pexservice.web.representations import state_json
from pexservice.web.responses import Header, StreamWriter

#: A stream needs 12 KiB, and ten times a second a write of 12 microseconds.  So all streams
#: together need 3 % of the worker's time.
MAX_STREAMS = 250

#: The minimum time between two events of a stream.
EVENT_INTERVAL_SECONDS = 0.1

#: A heartbeat is sent after this many intervals, which is every 15 seconds.  A page that
#: gets no heartbeat knows that its network is gone, and a proxy does not close the
#: connection as idle.  The heartbeat is an event, because browsers hide comments from the
#: page.
HEARTBEAT_INTERVALS = 150

#: How long a client has to wait before it connects again.
RECONNECT_MILLISECONDS = 500

#: If a value has more digits, only the first and the last ones are sent.  A page cannot
#: handle a million digits ten times a second.
MAX_DIGITS = 1000
END_DIGITS = 32

STREAM_HEADERS: tuple[Header, ...] = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    # nginx would buffer events until it has some kilobytes of them.
    (b"X-Accel-Buffering", b"no"),
)


def event(state: State) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (state.revision, _data(state))


def heartbeat_event(state: State) -> bytes:
    """
    Return a heartbeat.  It contains the state, for clients that ignore the types of events.
    """
    return b"event: heartbeat\ndata: %b\n\n" % _data(state)


def workers_event(score: Score) -> bytes:
    """
    Return the supervisor's score as an event.  It has no id, which would be a revision.
    """
    since = datetime.fromtimestamp(score.active_since_ms / 1000, UTC)
    shown = {
        "serving": score.active_worker or None,
        "since": f"{since:%Y-%m-%dT%H:%M:%S}.{score.active_since_ms % 1000:03}Z",
        "before": score.previous_worker or None,
        "pause": score.takeover_us / 1e6,
        "standing_by": score.standby_count,
        "standby": score.wanted_standby_count,
        "takeovers": score.failovers,
    }
    data = json.dumps(shown, separators=(",", ":"))
    return f"event: workers\ndata: {data}\n\n".encode()


def _data(state: State) -> bytes:
    term = state.term
    if term.size <= MAX_DIGITS:
        return state_json(state).rstrip(b"\n")
    return b'{"position":%d,"digits":%d,"first":"%b","last":"%b","revision":%d}' % (
        term.position,
        term.size,
        term.text[:END_DIGITS],
        term.text[-END_DIGITS:],
        state.revision,
    )


class CursorStream:
    """
    The stream of events to one client; see L{Stream<pexservice.web.responses.Stream>}.

    @ivar shown: the last state that was sent, or that the client knew when it connected.
    @ivar skipped: whether the next comparison skips this stream, because its first event
        was sent just before.
    @ivar workers: the last event about the workers that was sent; C{None} if the client did
        not ask for these events.
    """

    _writer: StreamWriter | None = None

    def __init__(
        self, events: Events, beginning: bytes, shown: State, workers: bytes | None
    ) -> None:
        self._events = events
        self._beginning = beginning
        self.shown = shown
        self.workers = workers
        self.takes_bytes = True
        self.skipped = False

    def begin(self, writer: StreamWriter) -> None:
        self._writer = writer
        writer.send_piece(self._beginning)
        self._events.begun(self)

    def send(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.send_piece(data)

    def end(self) -> None:
        """
        End the stream; events that a slow client has not received are dropped.
        """
        self._events.remove(self)
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if self.takes_bytes:
            writer.end_stream()
        else:
            writer.abort()

    def pause(self) -> None:
        self.takes_bytes = False

    def resume(self) -> None:
        self.takes_bytes = True


class Events:
    """
    The streams of one worker.
    """

    def __init__(
        self,
        committer: ICommitter,
        later: CallLater,
        limit: int = MAX_STREAMS,
        score: Callable[[], Score | None] = lambda: None,
    ) -> None:
        """
        Start without streams.

        @param later: the reactor's C{callLater}.
        @param limit: how many streams there may be.
        @param score: reads the supervisor's score, if there is a supervisor.
        """
        self._committer = committer
        self._later = later
        self.limit = limit
        self._score = score
        # The streams in the order in which they were opened, each with its client.
        self._streams: dict[CursorStream, str] = {}
        self._timer_runs = False
        self._closed = False
        # How many intervals have passed since the last heartbeat.
        self._intervals = 0

    def __len__(self) -> int:
        return len(self._streams)

    def open(
        self, last_event_id: Sequence[bytes] | None, *, client: str, workers: bool = False
    ) -> CursorStream:
        """
        Return a new stream, which counts against the limit from now on.

        @param last_event_id: the values of the request's C{Last-Event-ID}, if it has one.
        @param client: the client; C{""} for all clients of a proxy that does not name them.
        @param workers: whether the stream also sends events about the workers.
        @raise Problem: there are too many streams.
        """
        if len(self._streams) >= self.limit:
            self._end_stream_of_another(client)
        state = self._committer.visible
        about_workers = self._workers() if workers else None
        beginning = b"retry: %d\n\n%b" % (RECONNECT_MILLISECONDS, about_workers or b"")
        if last_event_id != [b"%d" % state.revision]:
            beginning += event(state)
        stream = CursorStream(self, beginning, state, about_workers)
        self._streams[stream] = client
        return stream

    def begun(self, stream: CursorStream) -> None:
        """
        Begin to compare C{stream}, which has sent its first event, with the cursor.
        """
        if self._closed:
            # The stream ends and is not refused, because a browser does not connect again
            # after an error.
            stream.end()
        elif self._timer_runs:
            stream.skipped = True
        else:
            self._compare_later()

    def _end_stream_of_another(self, client: str) -> None:
        """
        End the oldest stream of the client that has the most streams.

        That client must have at least two streams more than C{client}; otherwise the two
        clients would end each other's streams in turns.  C{""} stands for many clients, and
        loses no streams.

        @raise Problem: no client has so many streams.
        """
        counts = Counter(self._streams.values())
        own_count = counts[client]
        del counts[""]
        for greedy, count in counts.most_common(1):
            if count >= own_count + 2:
                next(s for s, name in self._streams.items() if name == greedy).end()
                return
        raise problems.too_many_streams(self.limit)

    def remove(self, stream: CursorStream) -> None:
        self._streams.pop(stream, None)

    def close(self) -> None:
        """
        End all streams; a stream that is opened later ends with its first event.
        """
        self._closed = True
        for stream in list(self._streams):
            stream.end()

    def _compare_later(self) -> None:
        # The interval begins now, so that after a late comparison the next one is not too
        # early.
        self._timer_runs = True
        self._later(EVENT_INTERVAL_SECONDS, self._compare)

    def _workers(self) -> bytes:
        score = self._score()
        return b"" if score is None else workers_event(score)

    def _compare(self) -> None:
        self._timer_runs = False
        if not self._streams:
            return
        self._compare_later()
        state = self._committer.visible
        self._intervals = (self._intervals + 1) % HEARTBEAT_INTERVALS
        heartbeat = b"" if self._intervals else heartbeat_event(state)
        data = b""
        watched = any(stream.workers is not None for stream in self._streams)
        workers = self._workers() if watched else b""
        for stream in list(self._streams):
            if stream.skipped or not stream.takes_bytes:
                stream.skipped = False
                continue
            if stream.workers is not None and stream.workers != workers:
                stream.workers = workers
                stream.send(workers)
            if state.revision < stream.shown.revision:
                # The store was restored, so the client knows a revision of another history.
                # The client connects again, and gets the present state.
                stream.end()
                continue
            if stream.shown is not state:
                data = data or event(state)
                stream.shown = state
                stream.send(data)
            if heartbeat:
                stream.send(heartbeat)
