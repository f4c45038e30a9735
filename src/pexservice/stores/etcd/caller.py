"""
The interface of a gateway, as the store needs it.

A call ends in one of three ways, and everything above depends on which: it is
answered; it was surely not done (L{Refused}, or L{Unanswered} and not C{sent}); or
its outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from pexservice.stores.etcd.records import Message

T = TypeVar("T")

#: How long one attempt at a call may take.  Seconds.
ATTEMPT = 1.0

#: How long a call may take with all its attempts, before the waiting clients get an error.
#: Seconds.
DEADLINE = 5.0
#: gRPC's code for a call that makes no sense to etcd, as one with a wrong password.
INVALID_ARGUMENT = 3

#: gRPC's code with which etcd says that it has no space, even for a call that it has done.
RESOURCE_EXHAUSTED = 8


class Refused(Exception):
    """
    etcd refuses a call, and has done nothing, except with L{RESOURCE_EXHAUSTED}.

    @ivar code: gRPC's code.
    """

    def __init__(self, code: int, message: str) -> None:
        if code == RESOURCE_EXHAUSTED:
            message += "; compact and defragment etcd, then disarm its NOSPACE alarm"
        super().__init__(message)
        self.code = code


class Unanswered(Exception):
    """
    There is no answer to a call, or none that says what happened.

    @ivar sent: whether etcd may have got the call.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Caller(Protocol):
    """
    The part of a gateway that the store needs, so that tests can put words into its mouth.
    """

    @property
    def clock(self) -> IReactorTime:
        """
        Return the reactor's clock.
        """

    async def call(self, path: str, message: Message) -> Message:
        """
        Make one attempt at a call, and return its answer.

        @param path: the path below C{/v3/}.
        @raise Refused: the call was not done; see L{Refused}.
        @raise Unanswered: whether the call was done is not known, if it was C{sent}.
        """

    async def pause(self, attempt: int) -> None:
        """
        Wait before the C{attempt}-th repetition, counted from 0.
        """

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key for as long as the watch lasts.

        @param take: called with each piece of the answer.
        @raise Refused: the watch was not begun.
        @raise Unanswered: there was no answer, or the watch broke.
        """

    async def close(self) -> None:
        """
        Let go of the connections.
        """


async def persist(
    caller: Caller,
    attempt: Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """
    Make an attempt, which may be made again, until it is answered.

    @raise Refused: etcd refused it.
    @raise Unanswered: it was not answered within L{DEADLINE} seconds; the message has each
        reason once.
    """
    end, number = caller.clock.seconds() + DEADLINE, 0
    problems: dict[str, None] = {}
    sent = False
    while True:
        try:
            return await attempt()
        except Unanswered as error:
            problems[str(error)] = None
            sent = sent or error.sent
            if caller.clock.seconds() + ATTEMPT >= end:
                raise Unanswered("; ".join(problems), sent=sent) from error
        await caller.pause(number)
        number += 1


async def ask(caller: Caller, path: str, message: Message) -> Message:
    """
    Make a call, which may be made again, until it is answered; see L{persist}.
    """
    return await persist(caller, lambda: caller.call(path, message))
