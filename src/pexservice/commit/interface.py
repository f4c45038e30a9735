"""
The interface between a committer and the code that responds to requests.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from pexservice.commit.counters import Counts
from pexservice.commit.requests import Step, Waiter
from pexservice.core.cursor import State
from pexservice.stores.interface import NotTaken, Row


class ICommitter(Interface):
    """
    The only way to a store: it takes steps, and gives durable outcomes, in order.
    """

    counts: Counts = Attribute("The counters of steps and commits.")

    durable: State = Attribute("The newest durable state that this process knows of.")

    visible: State = Attribute("The newest known state that clients may see.")

    refusal: NotTaken | None = Attribute(
        "Why no step would be accepted now; C{None} if it would."
    )

    unread: NotTaken | None = Attribute(
        "Why there is no state to show; C{None} if there is one."
    )

    def start() -> Coroutine[Any, Any, None]:
        """
        Open the store, and start from its cursor.

        @raise StoreUnusable: or one of its subclasses.
        """

    def unusable(reason: str) -> None:
        """
        Refuse all requests: the store could not be opened, for C{reason}.
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

    def settled() -> Deferred[None]:
        """
        Wait for the commit in progress, if this machine's disk can make it hang.

        The heartbeat waits for it, so a worker with a stuck disk stops looking alive.
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
