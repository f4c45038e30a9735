"""
The exceptions of the client.

Each message is one printable line, without values of the sequence and without tokens.
"""

from __future__ import annotations

from attrs import define, field

from pexservice.client.state import State


@define(eq=False)
class CursorError(Exception):
    """
    A call failed.

    @ivar key: the idempotency key, if the call was a step.  A step that is repeated with
        its key is never made twice.
    @ivar maybe_performed: whether a server may have performed the request of this call.
        False if each attempt failed to connect, or got a response that excludes it.  It
        says nothing about a read, which never moves the cursor.
    """

    message: str
    key: str | None = field(default=None, kw_only=True)
    maybe_performed: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return self.message


class BadAddress(CursorError, ValueError):
    """
    An argument cannot be used, for example a base URL, a token or a number of seconds.
    """


@define(eq=False)
class Moved(CursorError):
    """
    The cursor is not at the revision C{if_revision}, so the last attempt made no step.

    If C{maybe_performed} is true, an earlier attempt may have made the step, or may still
    make it.

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

    If C{maybe_performed} is true, the step may have been made.  If it is false, this call
    did not make the step.  In both cases, repeat the step with C{key}, to make it once.
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
    The client does not trust the server's certificate, or the certificate has another name.
    """
