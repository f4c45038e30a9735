"""
What a call may end with instead of an answer.

Each says in one line what was expected and what came.  None of them has a value of the
sequence or a token in its words.
"""

from __future__ import annotations

from attrs import define, field

from pexservice.client.state import State


@define(eq=False)
class CursorError(Exception):
    """
    A call that was not answered as it should have been.

    @ivar message: one line.
    @ivar key: the idempotency key of the step, if it was one: the same step with this key
        is never made twice.
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
    The cursor is at another revision than the step was meant for; nothing was moved.

    @ivar state: where it is.
    """

    state: State


class Unanswered(CursorError):
    """
    Nobody gave an answer before the deadline.
    """


class OutcomeUnknown(Unanswered):
    """
    Nobody gave an answer to a step before the deadline: it may have been made, or not.

    The call can be made again later with C{key}, which finds out, and makes the step if it
    was not made.
    """


@define(eq=False)
class Refused(CursorError):
    """
    The service says no, and would say it again.

    @ivar status: HTTP's.
    @ivar name: the last part of the problem's type, as C{unauthorized}.
    """

    status: int
    name: str


class UnexpectedAnswer(CursorError):
    """
    What answers is no pexservice, or its answer cannot be read.
    """


class CertificateRefused(CursorError):
    """
    The server's certificate is not trusted, or has another name.
    """
