"""
The exceptions that a call may end with instead of an answer.

Each exception says in one line what was expected and what came.  None of them has a value
of the sequence or a token in its words.
"""

from __future__ import annotations

from attrs import define, field

from pexservice.client.state import State


@define(eq=False)
class CursorError(Exception):
    """
    A call that was not answered as it should have been.

    @ivar message: one line for people.
    @ivar key: the idempotency key of the call, if it was a step: the same step with this
        key is never made twice.
    """

    message: str
    key: str | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        return self.message


class BadAddress(CursorError, ValueError):
    """
    A base URL, a token or a file of certificates that cannot be used.
    """


@define(eq=False)
class Moved(CursorError):
    """
    A step that was meant for another revision than the cursor's; nothing was moved.

    @ivar state: the present state of the cursor.
    """

    state: State


class Unanswered(CursorError):
    """
    A call that got no answer before its deadline.
    """


class OutcomeUnknown(Unanswered):
    """
    A step that got no answer before its deadline: it may have been made, or not.

    The call can be made again later with C{key}, which finds out, and makes the step if it
    was not made.
    """


@define(eq=False)
class Refused(CursorError):
    """
    A call that the service refused, and would refuse again.

    @ivar status: the status of HTTP.
    @ivar name: the last part of the problem's type, as C{unauthorized}.
    """

    status: int
    name: str


class UnexpectedAnswer(CursorError):
    """
    An answer that is not from a pexservice, or that cannot be read.
    """


class CertificateRefused(CursorError):
    """
    A certificate of the server that is not trusted, or has another name.
    """
