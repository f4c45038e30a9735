"""
The interface of a committer: steps and reads go in, and outcomes come out.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Protocol

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from pexservice.commit.counters import Counts
from pexservice.core.cursor import State, Transition
from pexservice.stores.interface import HistoryEntry, Refusal


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

    The values of the last three are the names under which the metrics count them; see
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
        L{pexservice.stores.remembered_keys.MAX_IDEMPOTENCY_KEY_BYTES} bytes.
    @ivar condition: returns whether to make the step, given the latest state.
    """

    transition: Transition
    key: bytes | None = None
    condition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    The receiver of one request's outcome.

    The committer calls exactly one of the two methods, exactly once, when the outcome is
    durable or cannot become durable any more.  With synchronous commit off it does not wait
    for that.  The call may come before
    L{ICommitter.step<pexservice.commit.interface.ICommitter.step>} or
    L{ICommitter.read<pexservice.commit.interface.ICommitter.read>} returns.
    """

    def respond(self, outcome: Outcome, state: State, /) -> None:
        """
        Take the outcome of the request.

        @param state: the state that was read, or the state after the step.  If the step's
            condition was not met: the state that did not meet it.
        """

    def fail(self, error: Exception, /) -> None:
        """
        Take the reason why there is no outcome.

        @param error: L{Refusal<pexservice.stores.interface.Refusal>},
            L{OutcomeUnknown<pexservice.stores.interface.OutcomeUnknown>} or L{KeyReused}.
        """


class ICommitter(Interface):
    """
    The only way to a store: it accepts steps, and delivers durable outcomes in order.
    """

    counts: Counts = Attribute("The counters of steps and commits.")

    durable: State = Attribute("The newest durable state that this process knows of.")

    visible: State = Attribute("The newest known state that clients may see.")

    step_refusal: Refusal | None = Attribute(
        "Why no step would be accepted now; C{None} if it would."
    )

    read_refusal: Refusal | None = Attribute(
        "Why there is no state to show; C{None} if there is one."
    )

    def start() -> Coroutine[Any, Any, None]:
        """
        Open the store, and start from its cursor.

        @raise StoreUnusable: or one of its subclasses.
        """

    def refuse_all(reason: str) -> None:
        """
        Refuse all steps and reads: the store could not be opened, for C{reason}.
        """

    def drain() -> Deferred[None]:
        """
        Accept no more steps, and commit those that were accepted.

        @return: fires when all waiters were called.
        """

    def stop() -> Coroutine[Any, Any, None]:
        """
        Commit the accepted steps, refuse others, and close the store.
        """

    def wait_for_commit() -> Deferred[None]:
        """
        Wait for the commit in progress, if this machine's disk can make it hang.

        The heartbeat waits for it, so a worker with a stuck disk stops looking alive.
        """

    def step(step: Step, waiter: Waiter) -> None:
        """
        Make C{step}, and give its outcome to C{waiter}.

        Outcomes that wait for a commit are delivered in the order of the steps.
        """

    def read(waiter: Waiter) -> None:
        """
        Give C{waiter} the state that a client may see now.

        No other code decides which state a read shows.
        """

    def read_durable() -> Deferred[State]:
        """
        Read the state after the newest transition of the L{history}.

        @raise Refusal: the store cannot be read.
        """

    def history(before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Read at most C{limit} durable transitions, newest first.

        Their revisions are below C{before}; if C{before} is C{None}, they are the latest.

        @raise Refusal: the store cannot be read.
        """
