"""
Responses as bytes: this module writes the head of every response.

The responses to one kind of request about the cursor differ only in the revision, the
position, the length and the value, so there is a format for each kind of request.  Reads
get the same bytes until the cursor moves.  Formats and bytes are kept for a second, because
they contain the date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attrs import evolve
from twisted.web.http import NO_BODY_CODES, datetimeToString

from pexservice.core.cursor import State
from pexservice.server.plans import Plan, ResponseFormat
from pexservice.web.representations import (
    VALUE,
    WITH_VALUE,
    ResponseKind,
    response_about,
    state_body,
)
from pexservice.web.responses import TEXT, Header, Response

#: The interim response to a client that waits before it sends a body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Writer = Callable[[State], bytes]


def write_head(
    response_format: ResponseFormat, response: Response, more_headers: Iterable[Header] = ()
) -> bytes:
    """
    Return the head of C{response}.

    Headers with the same name are written together, at the place of the first.
    """
    lines = [b"%b %d %b\r\n" % (response_format.version, response.status, response.phrase)]
    if response_format.connection is not None:
        lines.append(b"Connection: %b\r\n" % response_format.connection)
    lines.append(b"Date: %b\r\n" % datetimeToString())
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in (*response_format.browser_headers, *response.headers, *more_headers):
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        lines += [b"%b: %b\r\n" % (name, value) for value in values]
    lines.append(b"\r\n")
    return b"".join(lines)


def write_response(
    response_format: ResponseFormat, response: Response, length: bytes | None = None
) -> bytes:
    """
    Return C{response} as it is sent.

    @param length: the length of the body, if the body is not that of C{response}.
    """
    headers: tuple[Header, ...] = ()
    if response.status not in NO_BODY_CODES:
        # Also in the response to a HEAD: the length that the body of a GET would have.
        headers = ((b"Content-Length", length or b"%d" % len(response.body)),)
    head = write_head(response_format, response, headers)
    return head if response_format.bodiless else head + response.body


def write_stream_head(response_format: ResponseFormat, response: Response) -> bytes:
    """
    Return the head of a streamed C{response}, which is chunked in HTTP/1.1.
    """
    chunked = ((b"Transfer-Encoding", b"chunked"),)
    headers = chunked if response_format.version == b"HTTP/1.1" else ()
    return write_head(response_format, response, headers)


def _writer(plan: Plan, kind: ResponseKind) -> Writer:
    """
    Return the function that writes the response of C{kind} about a state.
    """
    response_format, has_value = plan.response_format, kind in WITH_VALUE
    bodiless, preferences = response_format.bodiless, response_format.preferences
    form = write_response(
        # Only these headers may have a percent sign; all others are constants.
        _escaped(response_format),
        response_about(kind, preferences, b"%d", b"%d", b"%b"),
        length=b"%d" if has_value else None,
    )
    representation = preferences.value

    def text(state: State) -> bytes:
        # This function has no calls, because it writes nearly all responses.
        revision, term = state
        digits = term.text
        return form % (revision, term.position, revision, len(digits) + 1, digits + b"\n")

    def value(state: State) -> bytes:
        revision, term = state
        body = state_body(state, representation)
        sent = (len(body),) if bodiless else (len(body), body)
        return form % (revision, term.position, revision, *sent)

    def no_value(state: State) -> bytes:
        return form % (state.revision, state.position, state.revision)

    if not has_value:
        return no_value
    return text if representation == TEXT and not bodiless else value


def _escaped(response_format: ResponseFormat) -> ResponseFormat:
    """
    Return C{response_format} with each percent sign doubled.

    Only the operator's C{--cors-origin} may have one.
    """
    headers = tuple(
        (name, value.replace(b"%", b"%%"))
        for name, value in response_format.browser_headers
    )
    return evolve(response_format, browser_headers=headers)


class ResponseWriter:
    """
    Writes the responses of one worker about the cursor.
    """

    def __init__(self) -> None:
        self._value_writers: dict[Plan, Writer] = {}
        self._other_writers: dict[tuple[Plan, ResponseKind], Writer] = {}
        self._read_state: State | None = None
        self._reads: dict[Plan, bytes] = {}

    def tick(self) -> None:
        """
        Begin another second: forget everything that contains a date.
        """
        self._value_writers.clear()
        self._other_writers.clear()
        self._read_state = None

    def write_state_response(self, plan: Plan, kind: ResponseKind, state: State) -> bytes:
        """
        Return the response of C{kind} about C{state} to a request of C{plan}.
        """
        if kind is not VALUE:
            writer = self._other_writers.get((plan, kind))
            if writer is None:
                writer = self._other_writers[plan, kind] = _writer(plan, kind)
            return writer(state)
        if state is self._read_state:
            response = self._reads.get(plan)
            if response is not None:
                return response
        writer = self._value_writers.get(plan)
        if writer is None:
            writer = self._value_writers[plan] = _writer(plan, kind)
        response = writer(state)
        if plan.operation is not None and plan.operation.transition is None:
            # All reads of this state get the same bytes.
            if state is not self._read_state:
                self._read_state = state
                self._reads.clear()
            self._reads[plan] = response
        return response
