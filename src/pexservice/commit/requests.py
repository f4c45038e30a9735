"""
The requests of callers to the committer, and their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from attrs import define

from pexservice.core.cursor import State, Transition


class KeyReused(Exception):
    """
    The idempotency key belongs to another transition.

    @ivar used: the transition that the key was used for.
    """

    def __init__(self, used: Transition) -> None:
        super().__init__(f"the key was used for {used.word}")
        self.used = used


class Result(Enum):
    """
    The result of a move, by the word that it is counted as.

    The words are in L{pexservice.commit.counters.OUTCOMES}.
    """

    #: The cursor moved.
    APPLIED = "moved"
    #: The cursor had moved before, by the same idempotency key.
    REPLAYED = "replayed"
    #: The cursor did not move, for the move's condition was not met.
    PRECONDITION_FAILED = "unmet"


class Outcome(NamedTuple):
    """
    The outcome of a move.

    @ivar state: the state after the move; for an unmet condition, the present state.
    """

    result: Result
    state: State


@define(eq=False)
class Move:
    """
    A move of the cursor that a caller asks for.

    @ivar key: an idempotency key of at most
        L{pexservice.stores.interface.LONGEST_KEY} bytes.
    @ivar condition: called with the present state, returns whether to move.
    """

    transition: Transition
    key: bytes | None = None
    condition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    A callable that is told the outcome of a move once.

    The call comes when the outcome is durable or will never be.
    """

    def __call__(self, outcome: Outcome | Exception, /) -> None:
        """
        Take the outcome of the move.

        @param outcome: the outcome, or L{NotTaken}, L{OutcomeUnknown} or L{KeyReused}.
        """
