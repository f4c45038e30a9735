"""
Responses as bytes.

All responses with the same plan and the same kind of response have the same bytes, except
the revision, the position, the length and the value.  So for the first of these responses,
a bytes format is made.  For each response, the values are inserted into this format.  Reads
of the same state get exactly the same bytes, which are remembered.  Formats and bytes
contain the date, so they are dropped after at most one second.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve
from twisted.web.http import NO_BODY_CODES, datetimeToString

from pexservice.core.cursor import State
from pexservice.server.plans import Plan
from pexservice.web.representations import (
    VALUE,
    WITH_VALUE,
    ResponseKind,
    response_about,
    state_body,
)
from pexservice.web.responses import TEXT, Response

#: The interim response to a client that waits before it sends a body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Writer = Callable[[State], bytes]


def write_response(plan: Plan, response: Response, length: bytes | None = None) -> bytes:
    """
    Return the bytes of C{response}.  For a streamed response, these are only the head.

    Headers with the same name are written next to each other.

    @param length: the C{Content-Length}, if it is not the length of the response's body.
    """
    headers = [*plan.browser_headers, *response.headers]
    if response.stream is not None:
        if plan.version == b"HTTP/1.1":
            headers.append((b"Transfer-Encoding", b"chunked"))
    elif response.status not in NO_BODY_CODES:
        # The response to a HEAD has the length that the body of a GET would have.
        headers.append((b"Content-Length", length or b"%d" % len(response.body)))
    lines = [b"%b %d %b\r\n" % (plan.version, response.status, response.phrase)]
    if plan.connection_header is not None:
        lines.append(b"Connection: %b\r\n" % plan.connection_header)
    lines.append(b"Date: %b\r\n" % datetimeToString())
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        lines += [b"%b: %b\r\n" % (name, value) for value in values]
    lines.append(b"\r\n")
    if not plan.omits_body:
        lines.append(response.body)
    return b"".join(lines)


def _writer(plan: Plan, kind: ResponseKind) -> Writer:
    """
    Return the function that writes the response of C{kind} about a state.
    """
    has_value, has_body = kind in WITH_VALUE, not plan.omits_body
    representation = plan.preferences.value
    # The origins of --cors-origin may contain a percent sign.  No other header can.
    browser_headers = tuple(
        (name, value.replace(b"%", b"%%")) for name, value in plan.browser_headers
    )
    form = write_response(
        evolve(plan, browser_headers=browser_headers),
        response_about(kind, plan.preferences, b"%d", b"%d", b"%b"),
        length=b"%d" if has_value else None,
    )

    def text(state: State) -> bytes:
        # This function writes nearly all responses, so it calls no other function.
        revision, term = state
        digits = term.text
        return form % (revision, term.position, revision, len(digits) + 1, digits + b"\n")

    def value(state: State) -> bytes:
        revision, term = state
        body = state_body(state, representation)
        length_and_body = (len(body), body) if has_body else (len(body),)
        return form % (revision, term.position, revision, *length_and_body)

    def no_value(state: State) -> bytes:
        return form % (state.revision, state.position, state.revision)

    if not has_value:
        return no_value
    return text if representation == TEXT and has_body else value


class ResponseWriter:
    """
    Writes the responses of one worker about the cursor.
    """

    def __init__(self) -> None:
        # The functions that write responses of the kind VALUE, and of the other kinds.
        self._value_writers: dict[Plan, Writer] = {}
        self._other_writers: dict[tuple[Plan, ResponseKind], Writer] = {}
        # The state that was read last, and the responses to reads of this state.
        self._read_state: State | None = None
        self._reads: dict[Plan, bytes] = {}

    def tick(self) -> None:
        """
        Begin another second, in which responses have another date.
        """
        self._value_writers.clear()
        self._other_writers.clear()
        self._read_state = None

    def write_state_response(self, plan: Plan, kind: ResponseKind, state: State) -> bytes:
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
            # Later reads of this state get these bytes.
            if state is not self._read_state:
                self._read_state = state
                self._reads.clear()
            self._reads[plan] = response
        return response
