"""
Moves whose outcome is a Deferred, which is handy where nothing is counted in microseconds.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pexservice.commit.interface import ICommitter
from pexservice.commit.requests import Move, Outcome


def submit(committer: ICommitter, move: Move) -> Deferred[Outcome]:
    """
    Make C{move}, and return its outcome; to cancel the result takes nothing back.
    """
    deferred: Deferred[Outcome] = Deferred()

    def waiter(outcome: Outcome | Exception, /) -> None:
        if isinstance(outcome, Outcome):
            deferred.callback(outcome)
        else:
            deferred.errback(outcome)

    committer.move(move, waiter)
    return deferred
