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
L{TurnQueue.delay}.  Then it is passed over, and the next transaction that succeeds
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


class TurnQueue:
    """
    The queue as one node sees it.

    All times are seconds on one monotonic clock.

    @ivar process: the name of this node in the queue.
    @ivar usual_seconds: how long a transaction of this node usually takes; 0 if no
        transaction has ended.
    """

    def __init__(self, process: str) -> None:
        """
        @param process: the name of this node in the queue.
        """
        self.process = process
        self._ahead: list[Mark] = []
        self._passed_over: list[Mark] = []
        # By author, etcd's revision of the newest commit heard of since the last answer.
        self._newest_commits: dict[str, int] = {}
        # Whether other nodes are there to take turns with.
        self._others_active = False
        # When each mark was seen for the first time.
        self._seen_at: dict[Mark, float] = {}
        # When the first of those ahead became the first, or else this node's turn began.
        self._since = 0.0
        # Whether steps arrived in time for the last turn.
        self._steps_arrived_in_time = True
        self.usual_seconds = 0.0

    @property
    def keeps_place(self) -> bool:
        """
        Return whether a transaction that is sent now is to keep a place for the next one.
        """
        return self._others_active and self._steps_arrived_in_time

    @property
    def passed_over(self) -> list[Mark]:
        """
        Return the marks that a transaction which is sent now is to remove.
        """
        return self._passed_over[:MAX_REMOVED_MARKS]

    def request_turn(self, now: float) -> None:
        """
        Take note that there are steps to commit.
        """
        self._steps_arrived_in_time = (
            bool(self._ahead) or now <= self._since + self.usual_seconds
        )

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
            self._passed_over.append(self._ahead.pop(0))
            self._since = now
        return 0.0

    def _bound(self, head: Mark) -> float:
        """
        Return how long C{head}'s turn may take, as seen from here.

        News of the turn takes about as long as a transaction of this node.
        """
        if head.hard or self._is_slow(head):
            return min(
                max(
                    self.usual_seconds + HARD_TRANSACTIONS * head.usual_seconds,
                    MIN_HARD_SECONDS,
                ),
                MAX_TURN_SECONDS,
            )
        return min(
            self.usual_seconds + SOFT_TRANSACTIONS * head.usual_seconds, MAX_TURN_SECONDS
        )

    def _is_slow(self, mark: Mark) -> bool:
        return (
            self.usual_seconds + HARD_TRANSACTIONS * mark.usual_seconds
            > MAX_OWN_TRANSACTIONS * self.usual_seconds
            > 0
        )

    def _is_skipped(self, mark: Mark, now: float) -> bool:
        """
        Return whether C{mark} is slow, and not there for long enough to be waited for.
        """
        seconds = now - self._seen_at.get(mark, now)
        return self._is_slow(mark) and seconds < SKIPPED_WAITS * self._bound(mark)

    def note_commit(self, now: float, author: str, modified: int) -> None:
        """
        Take note that C{author} has committed, in etcd's revision C{modified}.
        """
        if author == self.process:
            return
        self._others_active = True
        self._newest_commits[author] = max(modified, self._newest_commits.get(author, 0))
        first = self._ahead[:1]
        # A mark that the author has put with that commit, or since, is for another turn.
        self._ahead = [mark for mark in self._ahead if not self._is_over(mark)]
        if first != self._ahead[:1]:
            self._since = now

    def _is_over(self, mark: Mark) -> bool:
        return mark.modified < self._newest_commits.get(mark.process, 0)

    def note_success(
        self, now: float, took: float, revision: int, marks: Iterable[Mark]
    ) -> None:
        """
        Take note of a transaction that succeeded: all other nodes in the queue are ahead.

        @param took: seconds from its being sent to its answer.
        @param revision: etcd's revision in the answer.
        @param marks: the marks in the queue then, in its order.
        """
        others = [mark for mark in marks if mark.process != self.process]
        # News may have overtaken the answer.
        self._others_active = bool(others) or any(
            modified > revision for modified in self._newest_commits.values()
        )
        self._answered(now, took, others, others)

    def note_failure(
        self, now: float, took: float, revision: int, marks: Iterable[Mark]
    ) -> None:
        """
        Take note of a transaction that failed: the marks before this node's are ahead.

        The arguments are those of L{note_success}.
        """
        others = [*marks]
        before = [*takewhile(lambda mark: mark.process != self.process, others)]
        self._others_active = True
        self._answered(now, took, others, before)

    def _answered(
        self, now: float, took: float, marks: list[Mark], ahead: list[Mark]
    ) -> None:
        self._seen_at = {mark: self._seen_at.get(mark, now) for mark in marks}
        took = min(took, MAX_TURN_SECONDS)
        self.usual_seconds += (NEWEST_TURN_WEIGHT if self.usual_seconds else 1.0) * (
            took - self.usual_seconds
        )
        # A mark that was passed over stays passed over until it is put again.
        self._passed_over = [mark for mark in self._passed_over if mark in ahead]
        self._ahead = [
            mark
            for mark in ahead
            if mark not in self._passed_over and not self._is_over(mark)
        ]
        self._newest_commits.clear()
        self._since = now
