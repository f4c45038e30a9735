"""
Responses: how the client reads their bodies, and which content or error they contain.

If no pexservice can have sent a response, the functions raise L{UnexpectedAnswer}, whose
message says what was expected and what was received.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from pexservice.client.errors import CursorError, Moved, Refused, UnexpectedAnswer
from pexservice.client.state import Digits, State, Step, is_number
from pexservice.core.text import printable, quoted

OK = 200

#: The limit for the body of a successful response: three values of 80 million digits.
MAX_CONTENT_BYTES = 256 << 20

#: The limit for the body of any other response.  The client does not read the rest.
MAX_ERROR_CONTENT_BYTES = 64 << 10

_PROBLEM_TYPE = "urn:problem-type:pexservice:"

_STEPS = ("next", "previous", "reset")


@frozen
class ReceivedResponse:
    """
    One response.

    @ivar url: the URL of the request, for messages.
    @ivar headers: the last value of each header, by its name in lower case.
    @ivar body: the body, or its beginning if it is too long.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    def unexpected(self, expected: str, received: str) -> UnexpectedAnswer:
        """
        Return the exception for a response that is not the expected one.
        """
        message = f"{self.url}: expected {expected}, got {received}"
        return UnexpectedAnswer(message, maybe_performed=True)


class _BodyCollector(Protocol):
    """
    Collects a body up to a limit.  A longer body is cut, and its connection is closed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.complete: Deferred[bytes] = Deferred(lambda _: close(self))
        self._max_bytes = max_bytes
        self._size = 0
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        if self._size <= self._max_bytes:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > self._max_bytes:
                close(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.complete.called:
            # The read was cancelled.
            return
        # If a response has no length, it ends with PotentialDataLoss, even if it is
        # complete.  Only its content shows whether it is complete.
        if self._size > self._max_bytes or reason.check(ResponseDone, PotentialDataLoss):
            self.complete.callback(b"".join(self._chunks)[: self._max_bytes])
        else:
            self.complete.errback(reason)


def close(protocol: Protocol) -> None:
    """
    Close the connection that a body is received on, if it is open.
    """
    if protocol.transport is not None:
        # In Twisted's client, a body has no other way to close its connection.
        protocol.transport.loseConnection()


def read_response(response: IResponse, url: str) -> Deferred[ReceivedResponse]:
    """
    Read the body of C{response}; cancelling the Deferred closes the connection.
    """
    headers = {
        name.decode("ascii", "replace").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    body = _BodyCollector(
        MAX_CONTENT_BYTES if response.code == OK else MAX_ERROR_CONTENT_BYTES
    )
    response.deliverBody(body)
    return body.complete.addCallback(
        lambda content: ReceivedResponse(url, response.code, headers, content)
    )


def page_of(response: ReceivedResponse, before: int | None) -> tuple[list[Step], bool]:
    """
    Return the steps in a page of the history, and whether there are more pages.

    @param before: the revision in the request: all steps must have lower revisions.
    @raise UnexpectedAnswer: the response has no such page.
    """
    content = _content(response)
    steps: list[Step] = []
    with _reading(response, "a page of the history"):
        for row in content["transitions"]:
            revision, position = _count(row["revision"]), _count(row["position"])
            transition, time = row["transition"], datetime.fromisoformat(row["time"])
            if before is not None and revision >= before:
                raise ValueError(f"revision {revision} is not below {before}")
            if transition not in _STEPS:
                raise ValueError("no such step")
            steps.append(
                Step(revision=revision, position=position, transition=transition, time=time)
            )
            before = revision
        more = content["next"] is not None
    return steps, more and bool(steps)


def state_of(response: ReceivedResponse) -> State:
    """
    Return the state in an event, or in the response to a step or to C{/current}.

    @raise UnexpectedAnswer: there is no state.
    """
    content = _content(response)
    with _reading(response, "a state of the cursor"):
        revision, position = _count(content["revision"]), _count(content["position"])
        if "current" not in content:
            # An event has only the number of digits of a long value.
            _count(content["digits"])
            return State(revision=revision, position=position)
        current, previous, following = map(content.get, ("current", "previous", "next"))
        values_are_numbers = is_number(current) and is_number(following)
        has_previous = is_number(previous) if position else previous is None
        if not values_are_numbers or not has_previous:
            raise ValueError(f"these are no values at position {position}")
    return State(
        revision=revision,
        position=position,
        replayed=response.headers.get("idempotency-replayed") == "true",
        received=Digits(current, previous, following),
    )


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("a count must be a number of 64 bits")
    return value


@contextmanager
def _reading(response: ReceivedResponse, expected: str) -> Iterator[None]:
    """
    Raise L{UnexpectedAnswer} if the content does not have the expected form.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise response.unexpected(expected, quoted(response.body)) from error


def _content(response: ReceivedResponse) -> Any:
    if response.media_type != "application/json":
        kind = printable(response.media_type) or "no type"
        raise response.unexpected(
            "application/json of a pexservice", f"{kind}: {quoted(response.body)}"
        )
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        received = f"{len(response.body)} bytes: {quoted(response.body)}"
        raise response.unexpected("JSON", received) from error


def problem_of(response: ReceivedResponse) -> tuple[str, str] | None:
    """
    Return the name and the printable detail of a pexservice's problem (RFC 9457).

    @return: C{None} if the body is no such problem.
    """
    try:
        problem = json.loads(response.body)
        name, detail = problem["type"], problem["detail"]
        is_ours = isinstance(detail, str) and name.startswith(_PROBLEM_TYPE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not is_ours or response.media_type != "application/problem+json":
        return None
    return printable(name.removeprefix(_PROBLEM_TYPE)), printable(detail)


def error_of(response: ReceivedResponse) -> CursorError:
    """
    Return the exception for a final response that does not have the requested content.
    """
    problem = problem_of(response)
    if problem is None:
        received = quoted(response.body)
        if location := response.headers.get("location"):
            received = f"redirects to {quoted(location.encode())}; the client follows no"
            received += " redirect, so use that URL"
        received = f"status {response.status}: {received}"
        return response.unexpected("a response of a pexservice", received)
    name, detail = problem
    if name != "precondition-failed":
        return Refused(f"{response.url}: {detail}", response.status, name)
    with _reading(response, "the present revision and position"):
        revision = _count(int(response.headers["pex-revision"]))
        position = _count(int(response.headers["pex-position"]))
    return Moved(
        f"{response.url}: the cursor is at revision {revision}, position {position}",
        State(revision=revision, position=position),
    )
