"""
Make steps and reads whose outcome is a Deferred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attrs import define
from twisted.internet.defer import Deferred

from pexservice.commit.interface import ICommitter, Outcome, Step
from pexservice.core.cursor import State
from tests.support.fakes import collected


class Response(NamedTuple):
    """
    The arguments of C{Waiter.respond}.
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
        self.responded(Response(outcome, state))

    def fail(self, error: Exception, /) -> None:
        self.failed(error)


def submit(committer: ICommitter, step: Step) -> Deferred[Response]:
    """
    Submit C{step}, and return its outcome.  Cancelling the Deferred does not undo the step.
    """
    deferred: Deferred[Response] = Deferred()
    committer.step(step, CallingWaiter(deferred.callback, deferred.errback))
    return deferred


def collect(committer: ICommitter, step: Step) -> list[object]:
    """
    Submit C{step}.

    @return: a list that gets the tuple (outcome, revision, position), or the exception.
    """
    response = submit(committer, step)
    return collected(response.addCallback(lambda r: (r.outcome, *r.state.cursor)))


def read(committer: ICommitter) -> Deferred[Response]:
    deferred: Deferred[Response] = Deferred()
    committer.read(CallingWaiter(deferred.callback, deferred.errback))
    return deferred
