"""
Responses as bytes.

Responses about the cursor with the same L{ResponseFormat} and the same L{ResponseKind
<pexservice.web.representations.ResponseKind>} differ only in four items: the revision, the
position, the length and the value.  So the writer makes one pattern of bytes for all these
responses, and inserts the four items of each response into the pattern.  Reads of the same
state even have the same bytes, which the writer remembers.  Patterns and bytes contain the
date, so the writer drops them each second.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, frozen
from twisted.web.http import NO_BODY_CODES, datetimeToString

from pexservice.core.cursor import State
from pexservice.server.request_counters import Tally
from pexservice.web.parameters import Preferences
from pexservice.web.representations import (
    STATE,
    ResponseKind,
    response_about,
    state_body,
)
from pexservice.web.responses import TEXT, Header, Response

#: The interim response to a client that waits before it sends a body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Writer = Callable[[State], bytes]


@frozen(eq=False)
class ResponseFormat:
    """
    What all possible responses to a request have in common.

    The format depends on the request line and the headers.  All requests with the same plan
    share one object.

    @ivar tally: counts the responses.
    @ivar version: the version of HTTP, such as C{b"HTTP/1.1"}.
    @ivar connection_header: the value of the C{Connection} header, if the responses have
        one.
    @ivar closes_connection: whether the connection is closed after the response.
    @ivar browser_headers: the headers that browsers need in every response.
    @ivar omits_body: whether the responses have no body, because the request is a HEAD.
    """

    tally: Tally
    version: bytes
    connection_header: bytes | None
    closes_connection: bool
    browser_headers: tuple[Header, ...]
    preferences: Preferences
    omits_body: bool


def write_response(
    response_format: ResponseFormat, response: Response, length: bytes | None = None
) -> bytes:
    """
    Return the bytes of C{response}.  For a streamed response, these are only the head.

    Headers with the same name are written next to each other.

    @param length: the C{Content-Length}, if it is not the length of the response's body.
    """
    headers = [*response_format.browser_headers, *response.headers]
    if response.stream is not None:
        if response_format.version == b"HTTP/1.1":
            headers.append((b"Transfer-Encoding", b"chunked"))
    elif response.status not in NO_BODY_CODES:
        # The response to a HEAD has the Content-Length that the response to a GET has.
        headers.append((b"Content-Length", length or b"%d" % len(response.body)))
    lines = [b"%b %d %b\r\n" % (response_format.version, response.status, response.phrase)]
    if response_format.connection_header is not None:
        lines.append(b"Connection: %b\r\n" % response_format.connection_header)
    lines.append(b"Date: %b\r\n" % datetimeToString())
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        lines += [b"%b: %b\r\n" % (name, value) for value in values]
    lines.append(b"\r\n")
    if not response_format.omits_body:
        lines.append(response.body)
    return b"".join(lines)


def write_piece(response_format: ResponseFormat, data: bytes) -> bytes:
    """
    Return the bytes of a piece of a stream: for HTTP/1.1, a chunk.

    An empty piece ends the stream.
    """
    if response_format.version == b"HTTP/1.1":
        return b"%x\r\n%b\r\n" % (len(data), data)
    return data


def _writer(response_format: ResponseFormat, kind: ResponseKind) -> Writer:
    """
    Return the function that writes the response of C{kind} about a state.
    """
    has_value, has_body = kind.has_value, not response_format.omits_body
    representation = response_format.preferences.value
    # The origins of --cors-origin may contain a percent sign.  No other header can.
    browser_headers = tuple(
        (name, value.replace(b"%", b"%%"))
        for name, value in response_format.browser_headers
    )
    pattern = write_response(
        evolve(response_format, browser_headers=browser_headers),
        response_about(kind, response_format.preferences, b"%d", b"%d", b"%b"),
        length=b"%d" if has_value else None,
    )

    def text(state: State) -> bytes:
        # This function writes nearly all responses, so it calls no other function.
        revision, term = state
        digits = term.text
        length = len(digits) + 1
        return pattern % (revision, term.position, revision, length, digits + b"\n")

    def value(state: State) -> bytes:
        revision, term = state
        body = state_body(state, representation)
        length_and_body = (len(body), body) if has_body else (len(body),)
        return pattern % (revision, term.position, revision, *length_and_body)

    def no_value(state: State) -> bytes:
        return pattern % (state.revision, state.position, state.revision)

    if not has_value:
        return no_value
    return text if representation == TEXT and has_body else value


class ResponseWriter:
    """
    Writes the responses of one worker about the cursor.
    """

    def __init__(self) -> None:
        # The functions that write responses of the kind STATE, and of all other kinds.
        self._state_writers: dict[ResponseFormat, Writer] = {}
        self._other_writers: dict[tuple[ResponseFormat, ResponseKind], Writer] = {}
        # The state that was read last, and the responses to reads of this state.
        self._read_state: State | None = None
        self._reads: dict[ResponseFormat, bytes] = {}

    def tick(self) -> None:
        """
        Begin another second, in which responses have another date.
        """
        self._state_writers.clear()
        self._other_writers.clear()
        self._read_state = None

    def write_state_response(
        self,
        response_format: ResponseFormat,
        kind: ResponseKind,
        state: State,
        *,
        is_read: bool,
    ) -> bytes:
        if kind is not STATE:
            writer = self._other_writers.get((response_format, kind))
            if writer is None:
                writer = _writer(response_format, kind)
                self._other_writers[response_format, kind] = writer
            return writer(state)
        if state is self._read_state:
            response = self._reads.get(response_format)
            if response is not None:
                return response
        writer = self._state_writers.get(response_format)
        if writer is None:
            writer = self._state_writers[response_format] = _writer(response_format, kind)
        response = writer(state)
        if is_read:
            # Later reads of this state get these bytes.
            if state is not self._read_state:
                self._read_state = state
                self._reads.clear()
            self._reads[response_format] = response
        return response
