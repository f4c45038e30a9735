"""
The interface of a committer.  A committer gets requests, and delivers their outcomes.
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
    How a request ended.

    The metrics count the last three outcomes by their values; see
    L{pexservice.commit.counters.OUTCOMES}.

    Code that runs for every request uses module-level aliases of the members of an Enum,
    because reading a global is three times faster than reading an attribute of an Enum.
    """

    #: The request was a read.
    READ = "read"
    #: The step moved the cursor.
    APPLIED = "moved"
    #: The idempotency key was used before, so the cursor did not move again.
    REPLAYED = "replayed"
    #: The cursor did not move: the step's precondition was not met.
    PRECONDITION_FAILED = "unmet"


@define(eq=False)
class Step:
    """
    A request to change the cursor.

    @ivar key: an idempotency key of at most
        L{pexservice.stores.remembered_keys.MAX_IDEMPOTENCY_KEY_BYTES} bytes.
    @ivar precondition: called with the latest state; returns whether to apply the step.
    """

    transition: Transition
    key: bytes | None = None
    precondition: Callable[[State], bool] | None = None


class Waiter(Protocol):
    """
    The receiver of one request's outcome.

    The committer calls exactly one of the two methods, exactly once, unless a bug ends the
    process.  The committer waits until the outcome is durable, or until the step has
    failed.  With synchronous commit off, the committer does not wait for the disk.  The
    call may come before L{ICommitter.step<pexservice.commit.interface.ICommitter.step>} or
    L{ICommitter.read<pexservice.commit.interface.ICommitter.read>} returns.
    """

    def respond(self, outcome: Outcome, state: State, /) -> None:
        """
        Receive the outcome of the request.

        @param state: the state that was read, the state after the step, or the state that
            did not meet the step's precondition.
        """

    def fail(self, error: Exception, /) -> None:
        """
        Receive the error of a request that has no outcome.

        @param error: L{Refusal<pexservice.stores.errors.Refusal>},
            L{OutcomeUnknown<pexservice.stores.errors.OutcomeUnknown>} or L{KeyReused}.
        """


class ICommitter(Interface):
    """
    A committer: it writes the accepted steps to its store, and responds to reads.

    Its attributes and methods show these states of the cursor::

                        LMDB      LMDB, synchronous commit off   etcd
        durable         durable   durable                        durable, as known here
        visible         durable   latest                         durable, as known here
        read            durable   latest                         durable, read from etcd
        read_durable    durable   durable                        durable, read from etcd
    """

    counts: Counts = Attribute("The counters of steps and commits.")

    durable: State = Attribute("The newest durable state that this process knows.")

    visible: State = Attribute(
        "The newest state that this process knows and that clients may see."
    )

    step_refusal: Refusal | None = Attribute(
        "Why steps are refused now: the committer is starting or stopping, or it has"
        " failed; the store would refuse a commit, for example on a full disk; or etcd does"
        " not respond.  C{None} if steps are accepted."
    )

    read_refusal: Refusal | None = Attribute(
        "Why reads are refused now: the store is not open.  C{None} if it is open."
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
            newer transitions than C{durable}.  To leave them out, pass at most its revision
            plus 1.
        @raise Refusal: the store cannot be read.
        """
