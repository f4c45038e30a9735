"""
The interfaces of a committer: to the code that answers requests, and to its batches.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from pexservice.commit.batch import OpenBatch
from pexservice.commit.counters import Counts
from pexservice.commit.requests import Step, Waiter
from pexservice.core.cursor import State
from pexservice.stores.interface import Batch, NotTaken, Row


class ICommitter(Interface):
    """
    A committer, the one way to a store: moves in, durable outcomes out, in order.
    """

    counts: Counts = Attribute("What came of everything.")

    durable: State = Attribute("The newest durable state that this process knows of.")

    visible: State = Attribute("The newest known state that clients may see.")

    refusal: NotTaken | None = Attribute("Why nothing is taken now, if so.")

    unread: NotTaken | None = Attribute("Why there is no state to show, if so.")

    def start() -> Coroutine[Any, Any, None]:
        """
        Open the store, and begin where its cursor is.

        @raise StoreUnusable: or one of its subclasses.
        """

    def unusable(reason: str) -> None:
        """
        Refuse all requests: the store could not be opened, for C{reason}.
        """

    def drain() -> Deferred[None]:
        """
        Take no more moves.

        @return: fires when all moves that were taken are answered.
        """

    def stop() -> Coroutine[Any, Any, None]:
        """
        Commit the moves that were taken, refuse the rest, and close the store.
        """

    def settled() -> Deferred[None]:
        """
        Wait for the commit under way, if any, as far as it can hang on this machine's disk.

        A process whose commit hangs does not get on.
        """

    def step(step: Step, waiter: Waiter) -> None:
        """
        Make C{step}, and give its durable outcome to C{waiter}.

        Outcomes of steps that were applied come in the order of the steps.
        """

    def read(waiter: Waiter) -> None:
        """
        Give C{waiter} the state that a client may see now.

        This method decides which state a read shows.
        """

    def read_durable() -> Deferred[State]:
        """
        Read the state that the L{history} leads to.

        @raise NotTaken: the store cannot be read.
        """

    def history(before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        Read at most C{limit} durable transitions, newest first.

        Their revisions are below C{before}; if C{before} is C{None}, they are the latest.

        @raise NotTaken: the store cannot be read.
        """


class IBatchOwner(Interface):
    """
    The owner of a C{GroupCommit}'s batches, which is a committer.

    The owner decides when a batch is committed, and what the failure of a batch means.
    """

    def ready() -> None:
        """
        Call C{GroupCommit.commit}, now or later: the open batch has gathered.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Commit C{batch} to the store.
        """

    def failed(batch: OpenBatch, failure: Failure) -> None:
        """
        Answer the waiters of C{batch}, whose commit failed, and those of the open batch.

        The open batch was built on C{batch}.
        """

    def crashed(failure: Failure) -> None:
        """
        End the process soon: there is a bug.
        """
