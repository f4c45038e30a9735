"""
The order in which nodes take turns at the cursor.

Safety does not depend on the order: a batch is a compare-and-swap, and a node that commits
out of turn only causes failed attempts.  The queue decides which node tries first.

A node that wants a turn has a mark in etcd.  The order of the marks is the order in which
they were put: etcd has the revision of the last change of each mark.  The transactions that
move the cursor also read and write the marks, so marks need no further round trips.  If a
transaction succeeds and its node will have more steps, the transaction puts the node's mark
again, at the end of the queue.  If a transaction fails and its node has no mark, it puts
one.  Both answers contain the marks of the other nodes.  The cursor's record names the node
that has written it, so every node that watches the cursor knows whose turn has ended.

A node sends no transaction while other nodes are ahead of it.  After a success, all other
nodes in the queue are ahead; after a failure, those whose marks are before its own mark.
But a node may die, sleep, or have no steps when its turn comes.  So the other nodes wait
only as long as a turn of that node can take; see L{TurnQueue.delay}.  Then they pass the
node over, and the next transaction that succeeds removes its mark.

A node far from etcd is slow: in the time of its turn, the other nodes could have many
turns.  So they first skip the mark of a slow node, which keeps its place.  They wait for
the node when its mark has been in the queue for twice the time of such a wait.  All nodes
saw the mark at about the same time, so all of them wait at about the same time, and the
transaction of the slow node succeeds.

A mark is I{hard} if steps wait at its node, and I{soft} if the node will probably have
steps.

The queue is pure: it reads no clock and sends nothing.  Its methods get times and events.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from pexservice.stores.etcd.records import Mark

#: The weight of the newest transaction in the usual duration of a transaction.
NEWEST_TURN_WEIGHT = 0.1

#: Other nodes wait for a node with a soft mark, or with a hard mark, for the time of this
#: many usual transactions of that node.  The news that its turn has come takes the time of
#: one transaction, and its turn takes that of another one.
SOFT_TRANSACTIONS = 2
HARD_TRANSACTIONS = 4

#: The shortest wait for a hard mark.  The node has sent the mark a moment ago, and must not
#: lose its place because of a short pause of its interpreter.
MIN_HARD_SECONDS = 0.02

#: The longest wait for any node, whatever its mark says.
MAX_TURN_SECONDS = 0.5

#: A mark is slow if the wait for its node is longer than this many usual transactions of
#: the waiting node.
MAX_OWN_TRANSACTIONS = 12

#: A slow mark is skipped for this many times the wait for its node.
SKIPPED_WAITS = 2

#: How many marks one transaction removes, at most.
MAX_REMOVED_MARKS = 8


class TurnQueue:
    """
    The queue as one node sees it.

    All times are seconds on one monotonic clock.

    @ivar node: the name of this node in the queue.
    @ivar usual_seconds: how long a transaction of this node usually takes; 0 if no
        transaction has ended.
    """

    def __init__(self, node: str) -> None:
        """
        @param node: the name of this node in the queue.
        """
        self.node = node
        self._ahead: list[Mark] = []
        self._passed_over: list[Mark] = []
        # By node: etcd's revision of the newest commit that was reported since the last
        # answer.
        self._newest_commits: dict[str, int] = {}
        # Whether other nodes commit, too.
        self._others_active = False
        # By mark: when this node first saw the mark.
        self._seen_at: dict[Mark, float] = {}
        # When the present first node became the first in the queue, which may be this node.
        self._since = 0.0
        # Whether this node had steps to commit in time for its last turn.
        self._steps_arrived_in_time = True
        self.usual_seconds = 0.0

    @property
    def keeps_place(self) -> bool:
        """
        Return whether a transaction that is sent now should put this node's mark again.
        """
        return self._others_active and self._steps_arrived_in_time

    @property
    def passed_over(self) -> list[Mark]:
        """
        Return the marks that a transaction that is sent now should remove.
        """
        return self._passed_over[:MAX_REMOVED_MARKS]

    def request_turn(self, now: float) -> None:
        """
        Record that this node has steps to commit.
        """
        self._steps_arrived_in_time = (
            bool(self._ahead) or now <= self._since + self.usual_seconds
        )

    def delay(self, now: float) -> float:
        """
        Return how many seconds to wait for other nodes; 0 if it is this node's turn.

        Pass over each node ahead whose time has run out.
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
        Return how long to wait for the node of C{head}.

        The report that its turn has ended takes about as long as a transaction of this
        node.
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
        Return whether C{mark} is slow, and so new that no node waits for it.
        """
        seconds = now - self._seen_at.get(mark, now)
        return self._is_slow(mark) and seconds < SKIPPED_WAITS * self._bound(mark)

    def note_commit(self, now: float, author: str, revision: int) -> None:
        """
        Record that C{author} has committed, in etcd's revision C{revision}.
        """
        if author == self.node:
            return
        self._others_active = True
        self._newest_commits[author] = max(revision, self._newest_commits.get(author, 0))
        first = self._ahead[:1]
        # If the author put its mark with this commit or later, the mark is for its next
        # turn.
        self._ahead = [mark for mark in self._ahead if not self._is_over(mark)]
        if first != self._ahead[:1]:
            self._since = now

    def _is_over(self, mark: Mark) -> bool:
        return mark.mod_revision < self._newest_commits.get(mark.node, 0)

    def note_success(
        self, now: float, took: float, revision: int, marks: Iterable[Mark]
    ) -> None:
        """
        Record that a transaction succeeded: all other nodes in the queue are ahead.

        @param took: how many seconds the transaction took.
        @param revision: etcd's revision in the answer.
        @param marks: the marks in the answer, in the order of the queue.
        """
        others = [mark for mark in marks if mark.node != self.node]
        # The watch may have reported later commits before this answer arrived.
        self._others_active = bool(others) or any(
            newest > revision for newest in self._newest_commits.values()
        )
        self._answered(now, took, others, others)

    def note_failure(
        self, now: float, took: float, revision: int, marks: Iterable[Mark]
    ) -> None:
        """
        Record that a transaction failed: the marks before this node's mark are ahead.

        The arguments are those of L{note_success}.
        """
        others = [*marks]
        before = [*takewhile(lambda mark: mark.node != self.node, others)]
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
        # After a mark was passed over, it counts again only when its node puts it again.
        self._passed_over = [mark for mark in self._passed_over if mark in ahead]
        self._ahead = [
            mark
            for mark in ahead
            if mark not in self._passed_over and not self._is_over(mark)
        ]
        self._newest_commits.clear()
        self._since = now
