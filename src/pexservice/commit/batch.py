"""
A batch of transitions that is not durable yet.
"""

from __future__ import annotations

from attrs import Factory, define

from pexservice.commit.requests import Outcome, Step, Waiter
from pexservice.core.cursor import State, Transition
from pexservice.stores.interface import Batch, Remembered


@define
class OpenBatch:
    """
    Transitions that will share a commit, and the waiters for their outcomes.

    @ivar before: the state that the first transition was applied to.
    @ivar began: when the first transition came, by the reactor's clock.
    @ivar considered: how many transitions there were when the batch was last considered.
    @ivar considered_at: when the batch was last considered, by the reactor's clock.
    @ivar idle: seconds of all turns of the reactor in which no more transitions came.
    @ivar answers: the waiters with their outcomes, states and steps, in order, for when
        the batch is durable.
    @ivar keys: the idempotency keys used, with the transition of each and the state after
        it.
    @ivar unmoved: for each answer that is about no transition of this batch, the outcome
        and the transition that was asked for.
    """

    before: State
    began: float = 0.0
    considered: int = 0
    considered_at: float = 0.0
    idle: float = 0.0
    transitions: bytearray = Factory(bytearray)
    answers: list[tuple[Waiter, Outcome, State, Step]] = Factory(list)
    keys: dict[bytes, tuple[Transition, State]] = Factory(dict)
    unmoved: list[tuple[Outcome, Transition]] = Factory(list)

    def to_store(self, after: State, time_ns: int) -> Batch:
        """
        Return the batch in the form that the store takes.
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
