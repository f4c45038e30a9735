"""
The responses about a state of the cursor: the value as text or JSON, 304 and 412.

In JSON, values are strings, because a JSON number above 2^53 is not exact (RFC 7493).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from attrs import frozen

from pexservice.core.cursor import State
from pexservice.stores.interface import HistoryEntry
from pexservice.web.parameters import Preferences
from pexservice.web.problems import ProblemKind, unmet_if_match, unmet_if_none_match
from pexservice.web.responses import CONTENT_TYPES, ETAG_SUFFIXES, JSON, Header, Response


@frozen(eq=False)
class ResponseKind:
    """
    The kind of a response about a state of the cursor.

    @ivar headers: the headers in addition to those about the state.
    @ivar problem: the problem, if the state does not meet the preconditions of the request.
    """

    status: int
    headers: tuple[Header, ...] = ()
    problem: ProblemKind | None = None

    @property
    def has_value(self) -> bool:
        return self.status == HTTPStatus.OK


#: The response to a read, or to a step that was applied: the state with its value.
STATE = ResponseKind(HTTPStatus.OK)
#: The response to a step whose idempotency key was used before: the state after the first
#: step with this key.
REPLAYED = ResponseKind(HTTPStatus.OK, ((b"Idempotency-Replayed", b"true"),))
#: The client already has this state.
NOT_MODIFIED = ResponseKind(HTTPStatus.NOT_MODIFIED)
IF_MATCH_FAILED = ResponseKind(HTTPStatus.PRECONDITION_FAILED, problem=unmet_if_match)
IF_NONE_MATCH_FAILED = ResponseKind(
    HTTPStatus.PRECONDITION_FAILED, problem=unmet_if_none_match
)


def state_headers(
    representation: str, revision: bytes, position: bytes
) -> tuple[Header, ...]:
    """
    Return the headers of every response about the cursor.

    L{pexservice.server.response_writer} makes a bytes format from these headers.  It fills
    the placeholders in this order: revision, position, and the revision in the C{ETag}.

    @param revision: decimal digits, or a placeholder of the format.
    @param position: decimal digits, or a placeholder of the format.
    """
    return (
        (b"Pex-Revision", revision),
        (b"Pex-Position", position),
        (b"ETag", b'"%b%b"' % (revision, ETAG_SUFFIXES[representation])),
        (b"Cache-Control", b"no-store"),
        (b"Vary", b"Accept"),
    )


def response_about(
    kind: ResponseKind,
    preferences: Preferences,
    revision: bytes,
    position: bytes,
    value: bytes,
) -> Response:
    """
    Return a response of C{kind}.  L{state_headers} explains C{revision} and C{position}.

    @param value: the body of a response with the value.
    """
    present = state_headers(preferences.value, revision, position)
    if kind.problem is not None:
        return kind.problem(headers=present).response(preferences.problem)
    if kind is NOT_MODIFIED:
        return Response(kind.status, present)
    content_type = (b"Content-Type", CONTENT_TYPES[preferences.value])
    return Response(kind.status, (content_type, *present, *kind.headers), value)


def state_response(kind: ResponseKind, preferences: Preferences, state: State) -> Response:
    value = state_body(state, preferences.value) if kind.has_value else b""
    revision, position = b"%d" % state.revision, b"%d" % state.position
    return response_about(kind, preferences, revision, position, value)


def state_body(state: State, representation: str) -> bytes:
    return state_json(state) if representation == JSON else state.term.text + b"\n"


def state_json(state: State) -> bytes:
    term = state.term
    preceding = term.preceding_text
    return b'{"position":%d,"current":"%b","previous":%b,"next":"%b","revision":%d}\n' % (
        term.position,
        term.text,
        b"null" if preceding is None else b'"%b"' % preceding,
        term.following_text,
        state.revision,
    )


def history_response(
    state: State,
    representation: str,
    entries: Sequence[HistoryEntry],
    next_page: str | None,
) -> Response:
    """
    Return a page of the history, without values, because these follow from the positions.

    @param next_page: the path and query of the next page, which has older entries;
        C{None} if this page is the last one.
    """
    body = (
        _history_json(entries, next_page)
        if representation == JSON
        else b"".join(map(_history_line, entries))
    )
    links: list[Header] = []
    if next_page is not None:
        links.append((b"Link", f'<{next_page}>; rel="next"'.encode()))
    revision, position = b"%d" % state.revision, b"%d" % state.position
    headers = (
        (b"Content-Type", CONTENT_TYPES[representation]),
        *state_headers(representation, revision, position),
        *links,
    )
    return Response(HTTPStatus.OK, headers, body)


def _time(entry: HistoryEntry) -> str:
    """
    Return the time of C{entry} in the format of RFC 3339, with microseconds.
    """
    seconds, nanoseconds = divmod(entry.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _history_line(entry: HistoryEntry) -> bytes:
    return (
        f"{_time(entry)} revision {entry.revision} {entry.transition.word}"
        f" to position {entry.position}\n"
    ).encode()


def _history_json(entries: Sequence[HistoryEntry], next_page: str | None) -> bytes:
    transitions = ",".join(
        f'{{"revision":{entry.revision},"position":{entry.position},'
        f'"transition":"{entry.transition.word}","time":"{_time(entry)}"}}'
        for entry in entries
    )
    link = "null" if next_page is None else f'"{next_page}"'
    return f'{{"transitions":[{transitions}],"next":{link}}}\n'.encode()
