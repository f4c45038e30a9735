"""
A batch in the making.
"""

from __future__ import annotations

from attrs import Factory, define

from pexservice.commit.requests import Move, Outcome, Result, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.stores.interface import Batch, Remembered


@define
class OpenBatch:
    """
    Transitions that will share a commit, and the waiters for it.

    @ivar before: the state that the first transition was applied to.
    @ivar began: when the first transition came, on the monotonic clock.
    @ivar considered: how many there were when the batch was last considered.
    @ivar considered_at: when that was, likewise.
    @ivar idle: seconds in which no more came, since then.
    @ivar answers: the waiters and their outcomes, in order, for when the batch is
        durable.
    @ivar keys: the idempotency keys used, with what each did.
    @ivar unmoved: of the answers that are about no transition of this batch, the result
        and which transition was asked for.
    """

    before: State
    began: float = 0.0
    considered: int = 0
    considered_at: float = 0.0
    idle: float = 0.0
    transitions: bytearray = Factory(bytearray)
    answers: list[tuple[Waiter, Outcome, Move]] = Factory(list)
    keys: dict[bytes, tuple[Transition, State]] = Factory(dict)
    unmoved: list[tuple[Result, Transition]] = Factory(list)

    def to_store(self, after: State, time_ns: int) -> Batch:
        """
        Return what the store is given.
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
