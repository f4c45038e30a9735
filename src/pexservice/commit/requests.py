"""
The requests of callers to the committer, and their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from attrs import frozen

from pexservice.core.cursor import State, Transition


class KeyReused(Exception):
    """
    The idempotency key belongs to another transition.

    @ivar used: that one.
    """

    def __init__(self, used: Transition) -> None:
        super().__init__(f"the key was used for {used.word}")
        self.used = used


class Result(Enum):
    """
    What came of a move.
    """

    #: The cursor moved.
    APPLIED = "moved"
    #: It had moved before, by the same idempotency key.
    REPLAYED = "replayed"
    #: It did not move, for the move's condition was not met.
    PRECONDITION_FAILED = "unmet"

    @property
    def word(self) -> str:
        """
        What it is counted as; see L{pexservice.commit.counters.OUTCOMES}.
        """
        return self.value


class Outcome(NamedTuple):
    """
    @ivar state: after the move; for an unmet condition, the present state.
    """

    result: Result
    state: State


@frozen
class Move:
    """
    What a caller wants.

    @ivar key: an idempotency key of at most L{LONGEST_KEY} bytes.
    @ivar condition: called with the present state, returns whether to move.
    """

    transition: Transition
    key: bytes | None = None
    condition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    Told once, when its outcome is durable or will never be.
    """

    def __call__(self, outcome: Outcome | Exception, /) -> None:
        """
        @param outcome: or L{NotTaken}, or L{OutcomeUnknown}.
        """
