"""
A state of the cursor as text and as JSON, and the headers that go with it.

Values are decimal strings in JSON too: beyond 2^53 a JSON number is not exact
(RFC 7493).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from pexservice.core.cursor import State
from pexservice.core.sequence import digits
from pexservice.stores.interface import Row
from pexservice.web.negotiation import best_of
from pexservice.web.replies import JSON, TEXT, Header, Reply

_TYPES = {
    TEXT: b"text/plain; charset=utf-8",
    JSON: b"application/json",
}

#: What tells a representation's ETag from the others' of the same revision.
_SUFFIXES = {TEXT: "", JSON: "-json"}


def chosen(accept: Sequence[bytes] | None) -> str:
    """
    The representation that a request's C{Accept} values ask for.
    """
    return best_of((TEXT, JSON), accept)


def state_headers(state: State, representation: str) -> tuple[Header, ...]:
    """
    What every answer about the cursor carries.
    """
    etag = f'"{state.revision}{_SUFFIXES[representation]}"'
    return (
        (b"Pex-Revision", b"%d" % state.revision),
        (b"Pex-Position", b"%d" % state.position),
        (b"ETag", etag.encode()),
        (b"Cache-Control", b"no-store"),
        (b"Vary", b"Accept"),
    )


def matches(tag: str, state: State) -> bool:
    """
    Is C{tag} the opaque part of one of the ETags of C{state}?
    """
    return any(tag == f"{state.revision}{suffix}" for suffix in _SUFFIXES.values())


def reply(
    state: State, representation: str, body: bytes, *headers: Header, status: int = 200
) -> Reply:
    """
    An answer about the cursor.
    """
    return Reply(
        status,
        (
            (b"Content-Type", _TYPES[representation]),
            *state_headers(state, representation),
            *headers,
        ),
        body,
    )


def state_reply(state: State, representation: str, *headers: Header) -> Reply:
    """
    The value at C{state}.
    """
    body = state_json(state) if representation == JSON else state.term.text + b"\n"
    return reply(state, representation, body, *headers)


@lru_cache(maxsize=1)
def state_json(state: State) -> bytes:
    """
    C{state} as JSON, made once for all who read the same one.
    """
    term = state.term
    preceding = term.preceding
    return b'{"position":%d,"current":"%b","previous":%b,"next":"%b","revision":%d}' % (
        term.position,
        term.text,
        b"null" if preceding is None else b'"%b"' % digits(preceding),
        digits(term.following),
        state.revision,
    )


def history_reply(
    state: State, representation: str, rows: Sequence[Row], following: str | None
) -> Reply:
    """
    C{rows} of the history; no values, for they follow from the positions.

    @param following: where the rows before these are, if there are any.
    """
    body = (
        _history_json(rows, following)
        if representation == JSON
        else b"".join(map(_history_line, rows))
    )
    links: list[Header] = []
    if following is not None:
        links.append((b"Link", f'<{following}>; rel="next"'.encode()))
    return reply(state, representation, body, *links)


def _time(row: Row) -> str:
    """
    RFC 3339, to the microsecond.
    """
    seconds, nanoseconds = divmod(row.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _history_line(row: Row) -> bytes:
    return (
        f"{_time(row)} revision {row.revision} {row.transition.word}"
        f" to position {row.position}\n"
    ).encode()


def _history_json(rows: Sequence[Row], following: str | None) -> bytes:
    entries = ",".join(
        f'{{"revision":{row.revision},"position":{row.position},'
        f'"transition":"{row.transition.word}","time":"{_time(row)}"}}'
        for row in rows
    )
    link = "null" if following is None else f'"{following}"'
    return f'{{"transitions":[{entries}],"next":{link}}}'.encode()
