"""
The interface of a gateway, and calls that are repeated until they are answered.

A call ends in one of three ways: etcd answers; etcd did not execute the call
(L{CallRefused}, or L{CallUnanswered} without C{sent}); or the outcome is unknown
(L{CallUnanswered} with C{sent}).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from pexservice.stores.etcd.records import Message

T = TypeVar("T")

#: How long one attempt at a call may take.
ATTEMPT_SECONDS = 1.0

#: How long a call may take with all its attempts.  Then the waiting clients get an error.
CALL_TIMEOUT_SECONDS = 5.0

#: gRPC's code for a call that etcd cannot execute, for example with a wrong password.
INVALID_ARGUMENT = 3

#: gRPC's code for a lack of space.  etcd sends it even for a call that it has executed.
RESOURCE_EXHAUSTED = 8


class CallRefused(Exception):
    """
    etcd refused a call and did not execute it; but see L{RESOURCE_EXHAUSTED}.

    @ivar code: gRPC's code.
    """

    def __init__(self, code: int, message: str) -> None:
        if code == RESOURCE_EXHAUSTED:
            message += "; compact and defragment etcd, then disarm its NOSPACE alarm"
        super().__init__(message)
        self.code = code


class CallUnanswered(Exception):
    """
    A call got no answer, or an answer that does not tell whether etcd executed the call.

    @ivar sent: whether etcd may have executed the call, now or later.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class PasswordUnreadable(CallUnanswered):
    """
    The call was not sent, because the password file cannot be read.  The message names it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


def explain(error: CallRefused | CallUnanswered) -> str:
    """
    Return the reason for C{error}, for a client and for the log.
    """
    if isinstance(error, PasswordUnreadable):
        return str(error)
    if isinstance(error, CallRefused):
        return f"etcd refuses: {error}"
    return f"etcd does not answer: {error}"


class Gateway(Protocol):
    """
    etcd's JSON gateway, as far as the store needs it; tests implement it too.

    @ivar certificate_expires: when the client certificate expires, in seconds since the
        epoch; C{None} if there is no certificate.
    """

    certificate_expires: float | None

    @property
    def clock(self) -> IReactorTime:
        """
        Return the clock of the reactor.
        """

    async def survey(self) -> dict[str, str]:
        """
        Check that a member of etcd answers, and that no member is too old.

        @return: for each endpoint, its version, or why it does not answer.
        @raise StoreError: no member answers, one is too old, or a server is not etcd.
        """

    async def call(self, path: str, message: Message) -> Message:
        """
        Make one attempt at a call, and return its answer.

        @param path: the path below C{/v3/}.
        @raise CallRefused: etcd did not execute the call.
        @raise CallUnanswered: etcd did not execute the call, or the outcome is unknown.
        """

    async def pause(self, attempt: int) -> None:
        """
        Wait before an attempt is repeated for the C{attempt}-th time, counted from 0.
        """

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key until the watch ends.

        @param take: called with each line of the answer.
        @raise CallRefused: the watch was not begun.
        @raise CallUnanswered: there was no answer, or the watch broke.
        """

    async def close(self) -> None:
        """
        Close the connections.
        """


async def retry_until_answered(
    gateway: Gateway, attempt: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """
    Call C{attempt} again and again until it is answered.

    @param attempt: makes one attempt at a call that can be repeated safely.
    @raise CallRefused: etcd refused an attempt.
    @raise CallUnanswered: no attempt was answered within L{CALL_TIMEOUT_SECONDS}.  The
        message has each reason once.
    """
    end, number = gateway.clock.seconds() + CALL_TIMEOUT_SECONDS, 0
    problems: dict[str, None] = {}
    sent = False
    while True:
        try:
            return await attempt()
        except PasswordUnreadable:
            raise
        except CallUnanswered as error:
            problems[str(error)] = None
            sent = sent or error.sent
            if gateway.clock.seconds() + ATTEMPT_SECONDS >= end:
                raise CallUnanswered("; ".join(problems), sent=sent) from error
        await gateway.pause(number)
        number += 1


async def call_until_answered(gateway: Gateway, path: str, message: Message) -> Message:
    """
    Make a call that can be repeated safely; see L{retry_until_answered}.
    """
    return await retry_until_answered(gateway, lambda: gateway.call(path, message))
