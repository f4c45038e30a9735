"""
The order in which nodes take turns at the cursor.

Safety does not depend on the order: a batch is a compare-and-swap, and nodes that try out
of turn only cost each other an attempt.  The queue decides which node tries first.

A node that wants a turn has a mark in etcd.  Marks are in the order of etcd's revisions
of their last change.  They are read and written by the transactions that move the cursor,
so they cost no further round trip: a transaction that succeeds puts its node at the
end of the queue again, if the node will have more steps, and a transaction that fails marks
its node, if it was not marked.  The answer to either names the other nodes in the queue.
The cursor's record names its author, so every node that watches it knows whose turn has
ended.

A node sends nothing while other nodes are ahead of it: after a success, all others in the
queue; after a failure, those before it.  Nodes die, sleep, or have nothing to do when
their turn comes, so a node is waited for no longer than its turn can take; see
L{StandingQueue.delay}.  Then it is passed over, and the next transaction that succeeds
removes its mark.

A node far from etcd is slow: a full wait for its turn would cost the others many of their
turns.  So a slow mark is skipped, and keeps its place, until it was there for so long
that waiting for it takes a small part of the others' time.  The others see the mark at
about the same time, so they wait at about the same time too, and its transaction wins.

A mark is hard if steps wait at its node, and soft if the node will probably want a turn.

The queue is pure: it reads no clock, and is notified of what happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from pexservice.stores.etcd.records import Mark

#: The weight of the newest transaction in the usual duration.
NEWEST_TURN_WEIGHT = 0.1

#: How long a node with a soft mark, and one with a hard mark, is waited for, in its usual
#: transactions.  It takes one until the node hears of its turn, and one for the turn.
SOFT_TRANSACTIONS = 2
HARD_TRANSACTIONS = 4

#: A hard mark is waited for so long at least: its node was there a moment ago, and a pause
#: of its interpreter is no reason to send it back to the end of the queue.
MIN_HARD_SECONDS = 0.02

#: No node is waited for longer, however slow it says that it is.
MAX_TURN_SECONDS = 0.5

#: A mark whose wait is longer than this many usual transactions of this node is slow.
MAX_OWN_TRANSACTIONS = 12

#: A slow mark is skipped for this many times as long as the wait for it.
SKIPPED_WAITS = 2

#: How many marks one transaction removes, at most.
MAX_REMOVED_MARKS = 8


class StandingQueue:
    """
    The queue as one node sees it.

    All times are seconds on one monotonic clock.

    @ivar process: the name of this node in the queue.
    @ivar usual: how long a transaction of this node usually takes; 0 if none has ended.
    """

    def __init__(self, process: str) -> None:
        """
        @param process: the name of this node in the queue.
        """
        self.process = process
        self._ahead: list[Mark] = []
        self._passed: list[Mark] = []
        # By author, etcd's revision of the newest commit heard of since the last answer.
        self._heard: dict[str, int] = {}
        # Whether other nodes are there to take turns with.
        self._company = False
        # When each mark was seen for the first time.
        self._seen_at: dict[Mark, float] = {}
        # When the first of those ahead became the first, or else this node's turn began.
        self._since = 0.0
        # Whether steps arrived in time for the last turn.
        self._returns = True
        self.usual = 0.0

    @property
    def will_return(self) -> bool:
        """
        Return whether a transaction that is sent now is to keep a place for the next one.
        """
        return self._company and self._returns

    @property
    def passed(self) -> list[Mark]:
        """
        Return the marks that a transaction which is sent now is to remove.
        """
        return self._passed[:MAX_REMOVED_MARKS]

    def ask(self, now: float) -> None:
        """
        Take note that there are steps to commit.
        """
        self._returns = bool(self._ahead) or now <= self._since + self.usual

    def delay(self, now: float) -> float:
        """
        Return how many seconds to wait now for news; 0 if it is this node's turn.

        A node ahead whose time has run out is passed over.
        """
        while self._ahead:
            if self._is_skipped(self._ahead[0], now):
                del self._ahead[0]
                continue
            left = self._since + self._bound(self._ahead[0]) - now
            if left > 0:
                return left
            self._passed.append(self._ahead.pop(0))
            self._since = now
        return 0.0

    def _bound(self, head: Mark) -> float:
        """
        Return how long C{head}'s turn may take, as seen from here.

        News of the turn takes about as long as a transaction of this node.
        """
        if head.hard or self._is_slow(head):
            return min(
                max(self.usual + HARD_TRANSACTIONS * head.usual, MIN_HARD_SECONDS),
                MAX_TURN_SECONDS,
            )
        return min(self.usual + SOFT_TRANSACTIONS * head.usual, MAX_TURN_SECONDS)

    def _is_slow(self, mark: Mark) -> bool:
        return (
            self.usual + HARD_TRANSACTIONS * mark.usual
            > MAX_OWN_TRANSACTIONS * self.usual
            > 0
        )

    def _is_skipped(self, mark: Mark, now: float) -> bool:
        """
        Return whether C{mark} is slow, and not there for long enough to be waited for.
        """
        seconds = now - self._seen_at.get(mark, now)
        return self._is_slow(mark) and seconds < SKIPPED_WAITS * self._bound(mark)

    def heard(self, now: float, author: str, modified: int) -> None:
        """
        Take note that C{author} has committed, in etcd's revision C{modified}.
        """
        if author == self.process:
            return
        self._company = True
        self._heard[author] = max(modified, self._heard.get(author, 0))
        first = self._ahead[:1]
        # A mark that the author has put with that commit, or since, is for another turn.
        self._ahead = [mark for mark in self._ahead if not self._is_over(mark)]
        if first != self._ahead[:1]:
            self._since = now

    def _is_over(self, mark: Mark) -> bool:
        return mark.modified < self._heard.get(mark.process, 0)

    def won(self, now: float, took: float, revision: int, marks: Iterable[Mark]) -> None:
        """
        Take note of a transaction that succeeded: all other nodes in the queue are ahead.

        @param took: seconds from its being sent to its answer.
        @param revision: etcd's revision in the answer.
        @param marks: the marks in the queue then, in its order.
        """
        others = [mark for mark in marks if mark.process != self.process]
        # News may have overtaken the answer.
        self._company = bool(others) or any(
            modified > revision for modified in self._heard.values()
        )
        self._answered(now, took, others, others)

    def lost(self, now: float, took: float, revision: int, marks: Iterable[Mark]) -> None:
        """
        Take note of a transaction that failed: the marks before this node's are ahead.

        The arguments are those of L{won}.
        """
        others = [*marks]
        before = [*takewhile(lambda mark: mark.process != self.process, others)]
        self._company = True
        self._answered(now, took, others, before)

    def _answered(
        self, now: float, took: float, marks: list[Mark], ahead: list[Mark]
    ) -> None:
        self._seen_at = {mark: self._seen_at.get(mark, now) for mark in marks}
        took = min(took, MAX_TURN_SECONDS)
        self.usual += (NEWEST_TURN_WEIGHT if self.usual else 1.0) * (took - self.usual)
        # A mark that was passed over stays passed over until it is put again.
        self._passed = [mark for mark in self._passed if mark in ahead]
        self._ahead = [
            mark for mark in ahead if mark not in self._passed and not self._is_over(mark)
        ]
        self._heard.clear()
        self._since = now
