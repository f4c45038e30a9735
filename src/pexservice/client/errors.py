"""
The exceptions of a call.

Each message is one printable line.  It says what the client expected and what it received,
and contains neither a value of the sequence nor a token.
"""

from __future__ import annotations

from attrs import define, field

from pexservice.client.state import State


@define(eq=False)
class CursorError(Exception):
    """
    A call failed.

    @ivar message: one line for people.
    @ivar key: the idempotency key of the call, if it was a step.  Repeating the step with
        this key never makes it twice.
    @ivar maybe_performed: whether a server may have performed the request.  False if no
        attempt got a connection, or if each response said that the request was not
        performed.
    """

    message: str
    key: str | None = field(default=None, kw_only=True)
    maybe_performed: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return self.message


class BadAddress(CursorError, ValueError):
    """
    A base URL, a token, a key or a file of certificates cannot be used.
    """


@define(eq=False)
class Moved(CursorError):
    """
    The cursor is not at the revision that the step was meant for.  No step was made.

    @ivar state: the present state of the cursor.
    """

    state: State


class Unanswered(CursorError):
    """
    The call received no final response before its deadline.
    """


class OutcomeUnknown(Unanswered):
    """
    A step received no final response before its deadline.

    If C{maybe_performed} is true, the step may have been made: repeat it with C{key}, and
    it is made unless it was made before.  If C{maybe_performed} is false, this call did not
    make the step.
    """


@define(eq=False)
class Refused(CursorError):
    """
    The service refused the request, and would refuse it again.

    @ivar status: the HTTP status.
    @ivar name: the last part of the problem's type, for example C{unauthorized}.
    """

    status: int
    name: str


class UnexpectedAnswer(CursorError):
    """
    The response is not from a pexservice, or the client cannot read it.
    """


class CertificateRefused(CursorError):
    """
    The client does not trust the server's certificate, or it is for another name.
    """
