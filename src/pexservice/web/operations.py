"""
Operations: the meanings of requests, the answers, and how an answer is rendered.

Twisted's parser with the Klein tree, or else the plan cache, reads a request and makes an
L{Operation} and L{Arguments<pexservice.web.parameters.Arguments>} of it;
L{Performer<pexservice.web.performer.Performer>} does the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface

from pexservice.commit.requests import Outcome
from pexservice.core.cursor import State, Transition
from pexservice.web.clients import Caller
from pexservice.web.parameters import Arguments, Preferences
from pexservice.web.preconditions import UNCONDITIONAL, Conditions
from pexservice.web.problems import Problem, problem_of
from pexservice.web.replies import Header, Reply
from pexservice.web.representations import (
    NOT_MODIFIED,
    PRECONDITION_FAILED,
    REPLAYED,
    VALUE,
    Kind,
    state_reply,
)

_log = Logger()

MOVE = "move the cursor"
WATCH = "watch the cursor"

_KINDS = {
    Outcome.READ: VALUE,
    Outcome.APPLIED: VALUE,
    Outcome.REPLAYED: REPLAYED,
    Outcome.PRECONDITION_FAILED: PRECONDITION_FAILED,
}


#: The end of a read or a step: the kind of the answer, or the committer's outcome, with
#: the state, or why nothing was done.
Answer = tuple[Kind | Outcome, State] | Exception

#: A function that does a read or a step.  It returns the answer if that is at hand, and
#: otherwise calls its argument with it, maybe before it returns.
Act = Callable[[Callable[[Answer], None]], Answer | None]


#: A function that makes the answer of an operation that is no read or step of the cursor.
#: If it writes the answer itself, its C{Deferred} fires with C{None} in the end.
Work = Callable[[Arguments], Reply | Deferred[Reply] | Deferred[None]]


@define(eq=False)
class Call:
    """
    An operation with arguments that were found to be allowed.

    @ivar act: does the operation.
    @ivar any_way: whether the arguments, the C{Host} among them, are allowed on every
        connection.
    @ivar any_time: whether they are so, and however often they come.
    """

    act: Act
    any_way: bool
    any_time: bool


@frozen(eq=False, kw_only=True)
class Operation:
    """
    The meaning of a request: all that decides its answer but for its arguments.

    An operation without transition, refusal and work is a read of the cursor.

    @ivar browser_headers: the headers that any answer to it has for browsers.
    @ivar deed: what it does that a page of another origin may not.
    @ivar ahead: whether a browser sent a step ahead of its user.
    @ivar refusal: why it is refused, where that follows from its target.
    """

    method: bytes
    browser_headers: tuple[Header, ...]
    preferences: Preferences
    transition: Transition | None = None
    deed: str | None = None
    ahead: bool = False
    refusal: Problem | None = None
    work: Work | None = None

    @property
    def is_about_cursor(self) -> bool:
        """
        Return whether the operation is a read or a step.
        """
        return self.work is None and self.refusal is None


class ISender(Interface):
    """
    The origin of a request: a connection, or a request that knows its connection.
    """

    #: The connection, as far as answers depend on it.
    caller: Caller


def kind_of_read(conditions: Conditions, state: State) -> Kind:
    """
    Return the kind of answer that a reader of C{state} gets.
    """
    if conditions is UNCONDITIONAL or conditions.met_by(state):
        return VALUE
    return NOT_MODIFIED if conditions.match(state) else PRECONDITION_FAILED


def log_bug(failure: Failure) -> None:
    """
    Log a failure that nobody expected.
    """
    _log.failure("a request failed", failure=failure)


def kind_of(came: Kind | Outcome) -> Kind:
    """
    Return the kind of answer for C{came}, the kind or outcome of a request.
    """
    return _KINDS[came] if isinstance(came, Outcome) else came


def reply_to(operation: Operation, answer: Answer) -> Reply:
    """
    Return C{answer} as it is sent.
    """
    if isinstance(answer, Exception):
        return problem_of(answer).reply(operation.preferences.problem)
    came, state = answer
    return state_reply(kind_of(came), operation.preferences, state)
