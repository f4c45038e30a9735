"""
Requests as the handlers see them, and operations on the cursor, which most of them mean.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from pexservice.commit.requests import Outcome, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.web.clients import Peer
from pexservice.web.cross_site import is_ahead
from pexservice.web.parameters import PURPOSES, Arguments, Preferences, preferences
from pexservice.web.preconditions import UNCONDITIONAL, Conditions
from pexservice.web.representations import (
    NOT_MODIFIED,
    PRECONDITION_FAILED,
    REPLAYED,
    VALUE,
    Kind,
)

_log = Logger()

# Module-level aliases: reading a global is three times faster than an Enum attribute.
_READ, _APPLIED, _REPLAYED = Outcome.READ, Outcome.APPLIED, Outcome.REPLAYED


@frozen(eq=False)
class Request:
    """
    A request, complete and well formed.

    @ivar target: the path with the query.
    """

    method: bytes
    target: bytes
    path: bytes
    arguments: Arguments
    peer: Peer


@frozen(eq=False)
class Operation:
    """
    An operation on the cursor: a step, or a read if there is no transition.

    Requests with the same operation differ in their arguments only.

    @ivar ahead: whether a browser sent the request before its user asked for it.
    """

    method: bytes
    preferences: Preferences
    transition: Transition | None
    ahead: bool


def operation(request: Request, transition: Transition | None = None) -> Operation:
    """
    Return the operation that C{request} means.
    """
    arguments = request.arguments
    ahead = any(is_ahead(arguments.get(name, ())) for name in PURPOSES)
    return Operation(
        request.method,
        preferences(arguments),
        transition,
        ahead=transition is not None and ahead,
    )


@define(eq=False)
class Call:
    """
    An operation with the arguments of one request, which are allowed.

    @ivar start: starts the operation; its argument is told the outcome.
    @ivar any_host: whether the request's C{Host} is allowed on every connection.
    @ivar any_time: whether the call needs no further check, however often it comes.
    """

    start: Callable[[Waiter], None]
    method: bytes
    conditions: Conditions
    any_host: bool
    any_time: bool


def kind_of_read(conditions: Conditions, state: State) -> Kind:
    """
    Return the kind of response that a read of C{state} gets.
    """
    if conditions is UNCONDITIONAL or conditions.met_by(state):
        return VALUE
    return NOT_MODIFIED if conditions.match(state) else PRECONDITION_FAILED


def kind_of(outcome: Outcome, state: State, call: Call) -> Kind:
    """
    Return the kind of response to C{call}, by the committer's outcome.

    This is the one place where an outcome becomes a response.
    """
    conditions = call.conditions
    if outcome is _APPLIED:
        return VALUE
    if outcome is _REPLAYED:
        return REPLAYED
    if outcome is _READ:
        return kind_of_read(conditions, state)
    # RFC 9110 13.1.2: a GET whose If-None-Match is not met gets 304.
    if call.method == b"GET" and conditions.match(state):
        return NOT_MODIFIED
    return PRECONDITION_FAILED


def log_bug(failure: Failure) -> None:
    """
    Log a failure that nobody expected.
    """
    _log.failure("a request failed", failure=failure)
