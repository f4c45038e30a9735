"""
A committer whose commits and event-loop iterations are controlled by a test.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pexservice.commit.asynchronous import AsynchronousCommitter
from pexservice.commit.committer import Committer
from pexservice.commit.interface import Step
from pexservice.core.cursor import Transition
from tests.support.fakes import MemoryStore, Turns, now
from tests.support.steps import collect


class Bench:
    """
    A committer with a store whose commits the test finishes, and with the test's clock.
    """

    def __init__(self, *, held: bool = True, synchronous: bool = True) -> None:
        self.store = MemoryStore(held=held)
        self.clock = Turns()
        self.fatal: list[Failure] = []
        committer_class = Committer if synchronous else AsynchronousCommitter
        self.committer = committer_class(
            self.store, self.clock, on_fatal_failure=self.fatal.append, time_ns=lambda: 7
        )
        now(Deferred.fromCoroutine(self.committer.start()))

    def submit(
        self, transition: Transition = Transition.NEXT, **kwargs: object
    ) -> list[object]:
        """
        Submit a step; see L{collect}.
        """
        return collect(self.committer, Step(transition, **kwargs))  # type: ignore[arg-type]

    def turn(self) -> None:
        """
        Run two iterations of the event loop: the second one brings no more steps.
        """
        self.clock.turn()
        self.clock.turn()

    def commit(self, count: int = 1) -> None:
        """
        Submit C{count} steps, and make them durable.
        """
        for _ in range(count):
            self.submit()
        self.turn()
        self.store.finish()

    def sizes(self) -> list[int]:
        """
        Return the number of transitions in each batch.
        """
        return [len(batch.transitions) for batch in self.store.batches]

    def counted(self) -> dict[str, int]:
        """
        Return the number of steps by outcome and first letter of the transition.
        """
        return {
            f"{outcome} {kind.word[0]}": count
            for kind, outcome, count in self.committer.counts.transitions()
            if count
        }
