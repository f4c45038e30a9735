"""
The interface of a committer, which gets requests and delivers their outcomes.
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
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import HistoryEntry


class KeyReused(Exception):
    """
    The idempotency key was used before, for another transition.

    @ivar used: the transition that the key was used for.
    """

    def __init__(self, used: Transition) -> None:
        super().__init__(f"the key was used for {used.word}")
        self.used = used


class CommitterBug(Exception):
    """
    The committer cannot continue because of a bug.  The log has the traceback.
    """


class Outcome(Enum):
    """
    How a request without an error ended.

    The values of the last three outcomes are labels in the metrics; see
    L{pexservice.commit.counters.OUTCOMES}.

    Code that runs for every request uses module-level aliases of these members: reading a
    global is three times faster than reading a member of an Enum.
    """

    #: The request was a read.
    READ = "read"
    #: The step was applied.
    APPLIED = "moved"
    #: An earlier step with the same key and transition was applied, and this step was not.
    REPLAYED = "replayed"
    #: The step was not applied, because its precondition was not met.
    PRECONDITION_FAILED = "unmet"


@define(eq=False)
class Step:
    """
    A request to change the cursor.

    @ivar key: an idempotency key of at most
        L{pexservice.stores.remembered_keys.MAX_IDEMPOTENCY_KEY_BYTES} bytes.
    @ivar precondition: called with a state; returns whether the step may be applied to it.
    """

    transition: Transition
    key: bytes | None = None
    precondition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    The receiver of one request's outcome.

    The committer calls one of the two methods, exactly once, unless a bug ends the process.
    C{respond} is called when the state is durable, or earlier with C{--synchronous-commit
    off}.  C{fail} is called when the request has failed.  Either call may come before
    L{ICommitter.step<pexservice.commit.interface.ICommitter.step>} or
    L{ICommitter.read<pexservice.commit.interface.ICommitter.read>} returns.
    """

    def respond(self, outcome: Outcome, state: State, /) -> None:
        """
        Receive the outcome of the request.

        @param state: for a read, the state that was read; for an applied or replayed step,
            the state after the step; for a failed precondition, the state that did not meet
            it.
        """

    def fail(self, error: Exception, /) -> None:
        """
        Receive the error of a request that ended without an L{Outcome}.

        @param error: L{Refusal<pexservice.stores.errors.Refusal>},
            L{OutcomeUnknown<pexservice.stores.errors.OutcomeUnknown>} or L{KeyReused}.
        """


class ICommitter(Interface):
    """
    A committer: it writes the accepted steps to its store, and responds to reads.

    C{durable}, C{visible}, C{read} and C{read_durable} show a state of the cursor:

      - On LMDB, all four show the durable state.
      - On LMDB with C{--synchronous-commit off}, C{visible} and C{read} show the latest
        state, and the other two show the durable state.
      - On etcd, C{read} and C{read_durable} ask etcd, because another node may have moved
        the cursor.  C{durable} and C{visible} show the newest durable state that this node
        knows, which may be older than the state in etcd.
    """

    counts: Counts = Attribute("The counters of steps and commits.")

    durable: State = Attribute("The newest durable state that this process knows.")

    visible: State = Attribute(
        "The newest state that this process knows and that clients may see."
    )

    step_refusal: Refusal | None = Attribute(
        "Why steps are refused now; C{None} if they are accepted.  The reason is a start, a"
        " stop, a failure, a store that cannot commit, for example on a full disk, or an"
        " etcd that does not respond."
    )

    read_refusal: Refusal | None = Attribute(
        "Why reads are refused now, or C{None} while the store is open."
    )

    def start(
        on_standby: Callable[[], object] | None = None,
    ) -> Coroutine[Any, Any, None]:
        """
        Open the store, and start from its cursor.

        @param on_standby: see L{IExclusiveStore.open}.
        @raise StoreError: or one of its subclasses.
        """

    def refuse_all(reason: str) -> None:
        """
        Refuse all steps and reads, because the store could not be opened.

        @param reason: why the store could not be opened.
        """

    def stop() -> Coroutine[Any, Any, None]:
        """
        Accept no more steps, commit the accepted steps, and close the store.
        """

    def wait_for_commit() -> Deferred[None]:
        """
        Return a Deferred that fires when the commit in progress, if any, has ended.

        The heartbeat waits for this Deferred, so a worker with a stuck disk sends no
        heartbeats.  If the store is not on this machine, the Deferred fires at once.
        """

    def step(step: Step, waiter: Waiter) -> None:
        """
        Apply C{step} if its key was not used before and its precondition is met.

        Outcomes that wait for a commit are delivered in the order of the steps.

        @param waiter: gets the outcome.
        """

    def read(waiter: Waiter) -> None:
        """
        Give C{waiter} the state that clients may see.
        """

    def read_durable() -> Deferred[State]:
        """
        Read the durable state, which is the state after the newest entry of L{history}.

        @raise Refusal: the store cannot be read.
        """

    def history(before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Read at most C{limit} durable transitions, newest first.

        @param before: return only transitions with lower revisions.  The store may have
            transitions that are newer than the state C{durable}.  To leave them out, pass
            C{durable.revision + 1}.
        @raise Refusal: the store cannot be read.
        """
