"""
What a batch is made of before it is one.
"""

from __future__ import annotations

from attrs import Factory, define

from pexservice.commit.requests import Move, Outcome, Result, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.stores.interface import Batch, Remembered


@define
class OpenBatch:
    """
    A batch in the making.

    @ivar before: the state that its first transition was applied to.
    @ivar since: when the first transition came, on the monotonic clock.
    @ivar considered: how many there were when it was last considered.
    @ivar told: what else is told when it is durable: the result, of which transition.
    """

    before: State
    since: float = 0.0
    considered: int = 0
    considered_at: float = 0.0
    idle: float = 0.0
    transitions: bytearray = Factory(bytearray)
    answers: list[tuple[Waiter, Outcome, Move]] = Factory(list)
    keys: dict[bytes, tuple[Transition, State]] = Factory(dict)
    told: list[tuple[Result, Transition]] = Factory(list)

    def batch(self, after: State, time_ns: int) -> Batch:
        """
        For the store.
        """
        return Batch(
            first_revision=self.before.revision + 1,
            start_position=self.before.position,
            transitions=bytes(self.transitions),
            position=after.position,
            time_ns=time_ns,
            keys=tuple(
                (key, Remembered(transition, state.revision, state.position))
                for key, (transition, state) in self.keys.items()
            ),
        )
