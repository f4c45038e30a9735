"""
The requests that the committer takes, and how they end.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

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


class Outcome(Enum):
    """
    How a request ended.

    The values of the last three are the words that the metrics count them as; see
    L{pexservice.commit.counters.OUTCOMES}.
    """

    #: The request was a read.
    READ = "read"
    #: The step moved the cursor.
    APPLIED = "moved"
    #: The cursor had moved before, by a step with the same idempotency key.
    REPLAYED = "replayed"
    #: The cursor did not move: the step's condition was not met.
    PRECONDITION_FAILED = "unmet"


@define(eq=False)
class Step:
    """
    A request to change the cursor.

    @ivar key: an idempotency key of at most
        L{pexservice.stores.remembered_keys.LONGEST_KEY} bytes.
    @ivar condition: called with the latest state, returns whether to make the step.
    """

    transition: Transition
    key: bytes | None = None
    condition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    The receiver of one request's outcome.

    The committer calls exactly one of the two methods, exactly once, when the outcome is
    durable or cannot become durable any more.  The call may come before
    L{ICommitter.step<pexservice.commit.interface.ICommitter.step>} or
    L{ICommitter.read<pexservice.commit.interface.ICommitter.read>} returns.
    """

    def respond(self, outcome: Outcome, state: State, /) -> None:
        """
        Take the outcome of the request.

        @param state: the state that was read, or the state after the step; if the step's
            condition was not met, the state that the condition was compared with.
        """

    def fail(self, error: Exception, /) -> None:
        """
        Take the reason why there is no outcome.

        @param error: L{NotTaken<pexservice.stores.interface.NotTaken>},
            L{OutcomeUnknown<pexservice.stores.interface.OutcomeUnknown>} or L{KeyReused}.
        """
