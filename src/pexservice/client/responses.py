"""
Responses: how they are read, and what they mean.

The reader is strict.  A response that no pexservice sends raises L{UnexpectedAnswer}, whose
message names what was expected and what was received.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeGuard, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from pexservice.client.connecting import ResponseTooLong
from pexservice.client.errors import Moved, Refused, UnexpectedAnswer
from pexservice.client.state import Digits, State, Step, is_number
from pexservice.core.text import printable

OK = 200

#: The limit for the body of a successful response: three values of 80 million digits.
MAX_BODY_BYTES = 256 << 20

#: How much is read of the body of any other response.
MAX_ERROR_BODY_BYTES = 64 << 10

#: How much of unexpected content a message quotes.
MAX_QUOTED_CHARACTERS = 60

_PROBLEM_TYPE = "urn:problem-type:pexservice:"

_TRANSITIONS = ("next", "previous", "reset")


@frozen
class Response:
    """
    One complete response.

    @ivar url: the URL of the request, for messages.
    @ivar headers: the last value of each header, by its name in lower case.
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
        return UnexpectedAnswer(f"{self.url}: expected {expected}, got {received}")


class _Body(Protocol):
    """
    A body that is collected up to a limit.
    """

    def __init__(self, status: int) -> None:
        self.finished: Deferred[bytes] = Deferred(lambda _: close(self))
        self._status = status
        self._size = 0
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._status != OK and self._size > MAX_ERROR_BODY_BYTES:
            self._finish(b"".join(self._chunks)[:MAX_ERROR_BODY_BYTES])
            close(self)
        elif self._size > MAX_BODY_BYTES:
            self._chunks.clear()
            self._finish(
                Failure(ResponseTooLong(f"a body of more than {MAX_BODY_BYTES} bytes"))
            )
            close(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # A response without a length ends with PotentialDataLoss, whether it is complete or
        # cut off.  Only its content shows which.
        if reason.check(ResponseDone, PotentialDataLoss):
            self._finish(b"".join(self._chunks))
        else:
            self._finish(reason)

    def _finish(self, result: bytes | Failure) -> None:
        if not self.finished.called:
            self.finished.callback(cast(Any, result))


def close(protocol: Protocol) -> None:
    """
    Close the connection that a body is received on, if it is open.
    """
    transport = protocol.transport
    if transport is not None:
        # Twisted's client gives a body no other way to end its connection.
        transport.loseConnection()


def read_response(response: IResponse, url: str) -> Deferred[Response]:
    """
    Read the body of C{response}; cancelling the Deferred closes the connection.
    """
    headers = {
        name.decode("ascii", "replace").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    body = _Body(response.code)
    response.deliverBody(body)
    return body.finished.addCallback(
        lambda content: Response(url, response.code, headers, content)
    )


def quoted(content: bytes) -> str:
    """
    Return the beginning of unexpected content in quotes.
    """
    text = content[: 8 * MAX_QUOTED_CHARACTERS].decode("utf-8", "replace")
    return f"'{printable(text, MAX_QUOTED_CHARACTERS)}'"


def problem_of(response: Response) -> tuple[str, str] | None:
    """
    Return the name and the printable detail of the service's problem in C{response}.

    @return: C{None} if the response has no such problem.
    """
    if response.media_type != "application/problem+json":
        return None
    try:
        problem = json.loads(response.body)
        name, detail = problem["type"], problem["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(detail, str):
        return None
    if not name.startswith(_PROBLEM_TYPE):
        return None
    return printable(name.removeprefix(_PROBLEM_TYPE)), printable(detail)


def state_of(response: Response) -> State:
    """
    Return the state in an event, or in the response to a step or to C{/current}.

    @raise Moved: the step was meant for another revision.
    @raise Refused: the service refused the request.
    @raise UnexpectedAnswer: the response contains no state.
    """
    content = _content(response)

    def wrong(received: str) -> UnexpectedAnswer:
        return response.unexpected("a state of the cursor", received)

    if not isinstance(content, dict):
        raise wrong(f"JSON that is not an object: {_brief(content)}")
    revision, position = content.get("revision"), content.get("position")
    if not _is_count(revision) or not _is_count(position):
        raise wrong(f"an object without revision and position: {_brief(list(content))}")
    if "current" not in content and _is_count(content.get("digits")):
        # An event leaves out the digits of a long value.
        return State(revision=revision, position=position)
    for name in ("current", "previous", "next"):
        value = content.get(name)
        # Position 0 has no previous value.
        absent = name == "previous" and position == 0
        if not (value is None if absent else is_number(value)):
            raise wrong(f"{name} at position {position} is not a number: {_brief(value)}")
    return State(
        revision=revision,
        position=position,
        replayed=response.headers.get("idempotency-replayed") == "true",
        received=Digits(content["current"], content["previous"], content["next"]),
    )


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _brief(value: object) -> str:
    return quoted(str(value).encode())


def steps_of(response: Response, before: int | None) -> tuple[list[Step], bool]:
    """
    Return the steps on a page of the history, and whether there are more pages.

    @param before: the revision in the request: all steps must have lower revisions.
    @raise Refused: the service refused the request.
    @raise UnexpectedAnswer: the response is not such a page.
    """
    content = _content(response)
    try:
        steps = [_step(row) for row in content["transitions"]]
        more = content["next"] is not None
    except (KeyError, TypeError, ValueError) as error:
        raise response.unexpected(
            "a page of the history",
            printable(f"something else ({type(error).__name__}: {error})"),
        ) from error
    for step in steps:
        if before is not None and step.revision >= before:
            raise response.unexpected(
                f"steps before revision {before}", f"revision {step.revision}"
            )
        before = step.revision
    return steps, more and bool(steps)


def _step(row: Mapping[str, Any]) -> Step:
    revision, position, transition = (
        row[name] for name in ("revision", "position", "transition")
    )
    if not _is_count(revision) or not _is_count(position):
        raise ValueError("revision or position is not a number")
    if transition not in _TRANSITIONS:
        raise ValueError("unknown transition")
    return Step(
        revision=revision,
        position=position,
        transition=transition,
        time=datetime.fromisoformat(row["time"]),
    )


def _content(response: Response) -> Any:
    """
    Return the JSON content of a successful response.
    """
    if response.status != OK:
        refuse(response)
    if response.media_type != "application/json":
        kind = printable(response.media_type, MAX_QUOTED_CHARACTERS) or "no type"
        raise response.unexpected(
            "application/json of a pexservice", f"{kind}: {quoted(response.body)}"
        )
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise response.unexpected("JSON", quoted(response.body)) from error


def refuse(response: Response) -> NoReturn:
    """
    Raise the exception for an unsuccessful response.
    """
    problem = problem_of(response)
    if problem is None:
        location = response.headers.get("location")
        if location:
            received = (
                f"redirects to {quoted(location.encode())}; the client follows no redirect,"
                " so use that URL"
            )
        else:
            received = quoted(response.body)
        raise response.unexpected(
            "a response of a pexservice", f"status {response.status}: {received}"
        )
    name, detail = problem
    if name != "precondition-failed":
        raise Refused(f"{response.url}: {detail}", response.status, name)
    numbers = [response.headers.get(f"pex-{word}", "") for word in ("revision", "position")]
    if not all(is_number(text) and len(text) < 20 for text in numbers):  # noqa: PLR2004 64 bits
        raise response.unexpected(
            "the present revision and position", quoted(response.body)
        )
    revision, position = map(int, numbers)
    raise Moved(
        f"{response.url}: the cursor is at revision {revision}, position {position}",
        State(revision=revision, position=position),
    )
