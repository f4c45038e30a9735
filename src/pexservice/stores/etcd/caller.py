"""
What the store needs of a gateway.

A call ends in one of three ways, and everything above depends on which: it is
answered; it was surely not done (L{Refused}, or L{Unanswered} and not C{sent}); or
nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from pexservice.stores.etcd.records import Message

T = TypeVar("T")

#: How long in all, before the waiting callers get an error.  Seconds.
DEADLINE = 5.0


#: gRPC's code with which etcd says that it has no space, also of what it has done.
RESOURCE_EXHAUSTED = 8


class Refused(Exception):
    """
    etcd says no, and has done nothing, but for L{RESOURCE_EXHAUSTED}.

    @ivar code: gRPC's.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unanswered(Exception):
    """
    No answer, or none that says what happened.

    @ivar sent: etcd may have got it.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Caller(Protocol):
    """
    What the store needs of a gateway, so that tests can put words into its mouth.
    """

    @property
    def clock(self) -> IReactorTime:
        """
        The reactor's clock.
        """

    async def call(self, path: str, message: Message) -> Message:
        """
        One attempt.

        @param path: below C{/v3/}.
        @raise Refused: it was not done; see there.
        @raise Unanswered: nobody knows, if it was C{sent}.
        """

    async def pause(self, attempt: int) -> None:
        """
        Wait before the C{attempt}-th repetition, counted from 0.
        """


async def persist(
    caller: Caller,
    attempt: Callable[[], Coroutine[Any, Any, T]],
    deadline: float = DEADLINE,
) -> T:
    """
    Make an attempt, which may be made again, until it is answered.

    @raise Refused: it was.
    @raise Unanswered: not within C{deadline} seconds.
    """
    end, number = caller.clock.seconds() + deadline, 0
    while True:
        try:
            return await attempt()
        except Unanswered:
            if caller.clock.seconds() >= end:
                raise
        await caller.pause(number)
        number += 1
