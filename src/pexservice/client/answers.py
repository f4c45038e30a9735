"""
The meaning of answers: pure, and strict.

An answer that no pexservice gives is an error, which names the expected answer and the one
that came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from attrs import frozen

from pexservice.client.errors import Moved, Refused, UnexpectedAnswer
from pexservice.client.numbers import is_number
from pexservice.client.state import Sent, State, Step

#: The prefix of the types of a service's problems.
_PROBLEM_TYPE = "urn:problem-type:pexservice:"

_TRANSITIONS = ("next", "previous", "reset")

#: How much of an unexpected text is shown.  Characters.
_SHOWN = 60


@frozen
class Answer:
    """
    One whole answer.

    @ivar url: the URL that was asked for.
    @ivar headers: the last value of each header, by its name in lower case.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def unexpected(self, expected: str, came: str) -> UnexpectedAnswer:
        """
        Return the exception for an answer that is not the expected one.
        """
        return UnexpectedAnswer(f"{self.url}: expected {expected}, got {came}")


def shown(text: bytes) -> str:
    """
    Return the beginning of an unexpected text, on one line.
    """
    line = " ".join(text[: 4 * _SHOWN].decode("utf-8", "replace").split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")


def problem_of(answer: Answer) -> tuple[str, str] | None:
    """
    Return the name and the detail of the problem in C{answer}, or C{None} without one.
    """
    kind = answer.headers.get("content-type", "")
    if kind.partition(";")[0] != "application/problem+json":
        return None
    try:
        problem = json.loads(answer.body)
        name, detail = problem["type"], problem["detail"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(name, str) or not name.startswith(_PROBLEM_TYPE):
        return None
    return name.removeprefix(_PROBLEM_TYPE), str(detail)


def state_of(answer: Answer) -> State:
    """
    Return the state in the answer to a step or to C{/current}, or in an event.

    @raise Moved: a step was meant for another revision.
    @raise Refused: the service refused the request.
    @raise UnexpectedAnswer: the answer has no state in it.
    """
    found = _whole(answer)

    def wrong(came: str) -> UnexpectedAnswer:
        return answer.unexpected("a state of the cursor", came)

    if not isinstance(found, dict):
        raise wrong(f"JSON that is no object: {_brief(found)}")
    revision, position = (_count(found.get(name)) for name in ("revision", "position"))
    if revision is None or position is None:
        raise wrong(f"an object without a revision and a position: {_brief(list(found))}")
    if "current" not in found and _count(found.get("digits")):
        # An event leaves out the digits of a long value.
        return State(revision=revision, position=position)
    for name in ("current", "previous", "next"):
        value = found.get(name)
        # There is nothing before position 0.
        absent = name == "previous" and position == 0
        if not (value is None if absent else is_number(value)):
            raise wrong(f"{name} at position {position} that is no number: {_brief(value)}")
    replayed = answer.headers.get("idempotency-replayed") == "true"
    sent = Sent(found["current"], found["previous"], found["next"])
    return State(revision=revision, position=position, replayed=replayed, sent=sent)


def _count(value: object) -> int | None:
    """
    Return C{value} if it is a number of steps, or else C{None}.
    """
    return value if type(value) is int and value >= 0 else None


def _brief(value: object) -> str:
    return shown(str(value).encode())


def steps_of(answer: Answer, before: int | None) -> tuple[list[Step], bool]:
    """
    Return the steps on a page of the history, and whether there are more pages.

    @param before: the revision that was asked for: all steps must be of lower revisions.
    @raise Refused: the service refused the request.
    @raise UnexpectedAnswer: the answer is no such page.
    """
    found = _whole(answer)
    try:
        steps = [_step(row) for row in found["transitions"]]
        more = found["next"] is not None
    except (KeyError, TypeError, ValueError) as error:
        raise answer.unexpected(
            "a page of the history", f"something else ({type(error).__name__}: {error})"
        ) from error
    for step in steps:
        if before is not None and step.revision >= before:
            raise answer.unexpected(
                f"steps before revision {before}", f"revision {step.revision}"
            )
        before = step.revision
    return steps, more and bool(steps)


def _step(row: Mapping[str, Any]) -> Step:
    revision, position, transition = (
        row[name] for name in ("revision", "position", "transition")
    )
    if type(revision) is not int or type(position) is not int:
        raise ValueError("a revision or a position that is no number")
    if transition not in _TRANSITIONS:
        raise ValueError("a transition that is not known")
    return Step(
        revision=revision,
        position=position,
        transition=transition,
        time=datetime.fromisoformat(row["time"]),
    )


def _whole(answer: Answer) -> Any:
    """
    Return the JSON value of a successful answer.
    """
    if answer.status != 200:  # noqa: PLR2004 HTTP's OK
        refuse(answer)
    kind = answer.headers.get("content-type", "")
    if kind.partition(";")[0].strip() != "application/json":
        raise answer.unexpected(
            "application/json of a pexservice", f"{kind or 'no type'}: {shown(answer.body)}"
        )
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise answer.unexpected("JSON", shown(answer.body)) from error


def refuse(answer: Answer) -> NoReturn:
    """
    Raise the exception that an unsuccessful answer stands for.
    """
    problem = problem_of(answer)
    if problem is None:
        location = answer.headers.get("location")
        raise answer.unexpected(
            "an answer of a pexservice",
            f"status {answer.status}"
            + (
                f" that leads to {shown(location.encode())}; no redirect is followed,"
                " so give the URL that it leads to"
                if location
                else f": {shown(answer.body)}"
            ),
        )
    name, detail = problem
    if name != "precondition-failed":
        raise Refused(f"{answer.url}: {detail}", answer.status, name)
    numbers = [answer.headers.get(f"pex-{each}", "") for each in ("revision", "position")]
    if not all(is_number(each) and len(each) < 20 for each in numbers):  # noqa: PLR2004 64 bits
        raise answer.unexpected("the present revision and position", shown(answer.body))
    revision, position = map(int, numbers)
    state = State(revision=revision, position=position)
    raise Moved(
        f"{answer.url}: the cursor is at revision {revision}, position {position}", state
    )
