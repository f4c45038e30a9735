"""
Server-Sent Events, which show the cursor whenever it moves.

Each event has the state at one moment.  A client that is too slow to get every state gets
the newest one, so a stream needs no queue.  While there are streams, a timer compares the
cursor with the last state that each stream has sent.  The committer does not call the
streams, so a step costs the same with many streams.

With C{?workers}, a stream also sends events of the type C{workers}.  These events name the
active worker and the previous one, and say how long the takeover took.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pexservice.commit.interface import ICommitter
from pexservice.core.cursor import State
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.web import problems
from pexservice.web.fair_queue import CallLater
from pexservice.web.representations import state_json
from pexservice.web.responses import Header, StreamWriter

#: A stream uses 12 KiB of memory, and ten times a second it writes for 12 microseconds.  So
#: this many streams use 3 MiB and 3 % of the worker's time.
MAX_STREAMS = 250

#: The minimum time between two events of a stream.
EVENT_INTERVAL_SECONDS = 0.1

#: A heartbeat is sent after this many intervals, which is every 15 seconds.  A page that
#: gets no heartbeat knows that its network is gone.  A heartbeat also keeps a proxy from
#: closing the connection as idle.  A heartbeat is an event and not a comment, because
#: browsers hide comments from the page.
HEARTBEAT_INTERVALS = 150

#: How long a client waits before it connects again.
RECONNECT_MILLISECONDS = 500

#: If a value has more than C{MAX_DIGITS} digits, only its first and its last C{END_DIGITS}
#: digits are sent.  A page cannot handle a million digits ten times a second.
MAX_DIGITS = 1000
END_DIGITS = 32

STREAM_HEADERS: tuple[Header, ...] = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    # Without this header, nginx would buffer events until it has some kilobytes of them.
    (b"X-Accel-Buffering", b"no"),
)


def event(state: State) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (state.revision, _data(state))


def heartbeat_event(state: State) -> bytes:
    """
    Return a heartbeat.

    Some clients ignore the type and read a state from each event, so a heartbeat has it.
    """
    return b"event: heartbeat\ndata: %b\n\n" % _data(state)


def workers_event(report: SupervisorReport) -> bytes:
    """
    Return the supervisor's report as an event.

    This event has no id, because the ids of the other events are revisions.
    """
    since = datetime.fromtimestamp(report.active_since_ms / 1000, UTC)
    members = {
        "serving": report.active_worker or None,
        "since": f"{since:%Y-%m-%dT%H:%M:%S}.{report.active_since_ms % 1000:03}Z",
        "before": report.previous_worker or None,
        "pause": report.takeover_us / 1e6,
        "standing_by": report.standby_count,
        "standby": report.wanted_standby_count,
        "takeovers": report.failovers,
    }
    data = json.dumps(members, separators=(",", ":"))
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

    @ivar last_state: the last state that was sent, or that the client knew when it
        connected.
    @ivar skips_next: whether the next comparison skips this stream, because the stream has
        just begun.
    @ivar workers: the last event about the workers that was sent; C{b""} if the worker has
        no supervisor; C{None} if the client did not ask for these events.
    """

    _writer: StreamWriter | None = None

    def __init__(
        self, events: Events, beginning: bytes, last_state: State, workers: bytes | None
    ) -> None:
        self._events = events
        self._beginning = beginning
        self.last_state = last_state
        self.workers = workers
        self.takes_bytes = True
        self.skips_next = False

    def begin(self, writer: StreamWriter) -> None:
        self._writer = writer
        writer.send_piece(self._beginning)
        self._events.watch_cursor(self)

    def send(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.send_piece(data)

    def end(self) -> None:
        """
        End the stream.  Events that a slow client has not received are dropped.
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
    def __init__(
        self,
        committer: ICommitter,
        call_later: CallLater,
        limit: int,
        read_report: Callable[[], SupervisorReport | None],
    ) -> None:
        """
        Start without streams.

        @param limit: how many streams there may be.
        @param read_report: reads the supervisor's report, if there is a supervisor.
        """
        self._committer = committer
        self._call_later = call_later
        self.limit = limit
        self._read_report = read_report
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
        @param client: the client, or C{""} if a proxy has not named it.
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

    def watch_cursor(self, stream: CursorStream) -> None:
        """
        Begin to watch the cursor for C{stream}, which has begun.
        """
        if self._closed:
            # The request is not refused, because a browser does not connect again after an
            # error.  After the end of a stream, a browser connects again.
            stream.end()
        elif self._timer_runs:
            stream.skips_next = True
        else:
            self._compare_later()

    def _end_stream_of_another(self, client: str) -> None:
        """
        End the oldest stream of the client that has the most streams.

        This client must have at least two streams more than C{client}.  Otherwise the two
        clients would end each other's streams in turns.  The streams of C{""} are not
        ended, because C{""} stands for many clients.

        @raise Problem: no client has so many streams.
        """
        counts = Counter(self._streams.values())
        own_count = counts[client]
        del counts[""]
        for other, count in counts.most_common(1):
            if count >= own_count + 2:
                next(s for s, owner in self._streams.items() if owner == other).end()
                return
        raise problems.too_many_streams(self.limit)

    def remove(self, stream: CursorStream) -> None:
        self._streams.pop(stream, None)

    def close(self) -> None:
        """
        End all streams.  A stream that is opened later ends after its first event.
        """
        self._closed = True
        for stream in list(self._streams):
            stream.end()

    def _compare_later(self) -> None:
        # The interval begins now, even if the present comparison is late.  So two
        # comparisons are never closer than the interval.
        self._timer_runs = True
        self._call_later(EVENT_INTERVAL_SECONDS, self._compare)

    def _workers(self) -> bytes:
        report = self._read_report()
        return b"" if report is None else workers_event(report)

    def _compare(self) -> None:
        self._timer_runs = False
        if not self._streams:
            return
        self._compare_later()
        state = self._committer.visible
        self._intervals = (self._intervals + 1) % HEARTBEAT_INTERVALS
        heartbeat = b"" if self._intervals else heartbeat_event(state)
        data = b""
        shows_workers = any(stream.workers is not None for stream in self._streams)
        workers = self._workers() if shows_workers else b""
        for stream in list(self._streams):
            if stream.skips_next or not stream.takes_bytes:
                stream.skips_next = False
                continue
            if stream.workers is not None and stream.workers != workers:
                stream.workers = workers
                stream.send(workers)
            if state.revision < stream.last_state.revision:
                # The store was restored, so the client knows a revision of another history.
                # The client connects again, and gets the present state.
                stream.end()
                continue
            if stream.last_state is not state:
                data = data or event(state)
                stream.last_state = state
                stream.send(data)
            if heartbeat:
                stream.send(heartbeat)
