"""
The interface of a gateway, as the store needs it.

A call ends in one of three ways, and the code above depends on which: the call is answered;
it surely was not done (L{CallRefused}, or L{CallUnanswered} and not C{sent}); or its
outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from pexservice.stores.etcd.records import Message

T = TypeVar("T")

#: How long one attempt at a call may take.
ATTEMPT_SECONDS = 1.0

#: How long a call may take with all its attempts, before the waiting clients get an error.
CALL_TIMEOUT_SECONDS = 5.0

#: gRPC's code for a call that makes no sense to etcd, as one with a wrong password.
INVALID_ARGUMENT = 3

#: gRPC's code for a lack of space, which etcd sends even for a call that it has done.
RESOURCE_EXHAUSTED = 8


class CallRefused(Exception):
    """
    etcd refuses a call, and has done nothing, except with L{RESOURCE_EXHAUSTED}.

    @ivar code: gRPC's code.
    """

    def __init__(self, code: int, message: str) -> None:
        if code == RESOURCE_EXHAUSTED:
            message += "; compact and defragment etcd, then disarm its NOSPACE alarm"
        super().__init__(message)
        self.code = code


class CallUnanswered(Exception):
    """
    There is no answer to a call, or none that says what happened.

    @ivar sent: whether etcd may have got the call.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Gateway(Protocol):
    """
    etcd's JSON gateway, as far as the store needs it; the tests have another.

    @ivar certificate_expires: when the client certificate ends, if there is one, in seconds
        since the epoch.
    """

    certificate_expires: float | None

    @property
    def clock(self) -> IReactorTime:
        """
        Return the clock of the reactor.
        """

    async def survey(self) -> dict[str, str]:
        """
        Check that etcd answers, and that no member is too old.

        @return: of each endpoint, its version, or why it does not answer.
        @raise StoreUnusable: nothing answers, or something else does, or an old etcd.
        """

    async def call(self, path: str, message: Message) -> Message:
        """
        Make one attempt at a call, and return its answer.

        @param path: the path below C{/v3/}.
        @raise CallRefused: the call was not done; see L{CallRefused}.
        @raise CallUnanswered: the call was not done, or its outcome is unknown.
        """

    async def pause(self, attempt: int) -> None:
        """
        Wait before the C{attempt}-th repetition, counted from 0.
        """

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key for as long as the watch lasts.

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
    Make an attempt, which may be made again, until it is answered.

    @raise CallRefused: etcd refused it.
    @raise CallUnanswered: it was not answered within L{CALL_TIMEOUT_SECONDS}; the message
        has each reason once.
    """
    end, number = gateway.clock.seconds() + CALL_TIMEOUT_SECONDS, 0
    problems: dict[str, None] = {}
    sent = False
    while True:
        try:
            return await attempt()
        except CallUnanswered as error:
            problems[str(error)] = None
            sent = sent or error.sent
            if gateway.clock.seconds() + ATTEMPT_SECONDS >= end:
                raise CallUnanswered("; ".join(problems), sent=sent) from error
        await gateway.pause(number)
        number += 1


async def call_until_answered(gateway: Gateway, path: str, message: Message) -> Message:
    """
    Make a call, which may be made again, until it is answered; see L{retry_until_answered}.
    """
    return await retry_until_answered(gateway, lambda: gateway.call(path, message))
