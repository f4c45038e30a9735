"""
Steps whose outcome is a Deferred, for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attrs import define
from twisted.internet.defer import Deferred

from pexservice.commit.interface import ICommitter, Outcome, Step
from pexservice.core.cursor import State


class Response(NamedTuple):
    """
    What a waiter was called with.
    """

    outcome: Outcome
    state: State


@define(eq=False)
class CallingWaiter:
    """
    A waiter that calls C{responded} with a L{Response}, or C{failed} with an error.
    """

    responded: Callable[[Response], object]
    failed: Callable[[Exception], object]

    def respond(self, outcome: Outcome, state: State, /) -> None:
        """
        Call C{responded}.
        """
        self.responded(Response(outcome, state))

    def fail(self, error: Exception, /) -> None:
        """
        Call C{failed}.
        """
        self.failed(error)


def submit(committer: ICommitter, step: Step) -> Deferred[Response]:
    """
    Make C{step}, and return its outcome; cancelling the Deferred takes nothing back.
    """
    deferred: Deferred[Response] = Deferred()
    committer.step(step, CallingWaiter(deferred.callback, deferred.errback))
    return deferred


def read(committer: ICommitter) -> Deferred[Response]:
    """
    Read the cursor.
    """
    deferred: Deferred[Response] = Deferred()
    committer.read(CallingWaiter(deferred.callback, deferred.errback))
    return deferred
