"""
The queue of the nodes that take turns to commit.

Safety does not depend on turns, because a batch is a compare-and-swap.  If two nodes commit
at the same time, one of the two transactions fails, and its node must try again.  The queue
makes this rare.

A node that wants a turn has a I{mark} in etcd.  The queue is the list of the marks, ordered
by etcd's revision of the transaction that put each mark.  A mark is I{hard} if steps wait
at its node, and I{soft} if the node will probably have steps.

The transaction of a batch also reads and writes the marks, so the queue needs no other
calls:

  - If the transaction succeeds, it removes the mark of its node.  But if other nodes commit
    too, and the node will probably have more steps, the transaction instead puts a soft
    mark of the node at the end of the queue.
  - If the transaction fails, and its node has no mark, it puts a hard mark of the node.
  - In all cases, the answer to the transaction contains the marks of all nodes.

Each node watches the cursor's record, which names the node that wrote it.  So each node
knows whose turn has ended.

A node sends no transaction while other nodes are I{ahead}.  After its transaction has
succeeded, all other nodes in the queue are ahead.  After its transaction has failed, the
nodes whose marks are before its own mark are ahead.

A node may die, sleep, or have no steps when its turn comes.  So other nodes wait for it
only as long as its turn can take; see L{TurnQueue.delay}.  Then its mark is I{overdue}, and
the next transaction that succeeds removes the mark.

A node is I{slow} if it is so far from etcd that the other nodes could have many turns in
the time of one of its turns.  At first, the other nodes ignore the mark of a slow node, but
they do not remove it.  When the mark has been in the queue for twice the time of a turn of
the slow node, they wait for this node.  All nodes have seen the mark at about the same
time, so all of them wait at about the same time, and the slow node's transaction succeeds.

The queue is pure: it reads no clock and sends nothing.  Its methods get times and events.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from pexservice.stores.etcd.records import Mark

#: The weight of the newest transaction in the usual duration of a transaction.
NEWEST_DURATION_WEIGHT = 0.1

#: How long other nodes wait for the node of a soft mark, and of a hard mark, in usual
#: durations of this node's transactions.  The report to this node that its turn begins
#: takes one such duration, and its turn takes another.
SOFT_TRANSACTIONS = 2
HARD_TRANSACTIONS = 4

#: The shortest wait for a node with a hard mark.  The node has sent the mark a moment ago,
#: and must not lose its place because its interpreter pauses for a short time.
MIN_HARD_SECONDS = 0.02

#: The longest wait for any node, whatever its mark says.
MAX_TURN_SECONDS = 0.5

#: A node is slow if the wait for it is longer than this many usual transactions of the
#: waiting node.
MAX_OWN_TRANSACTIONS = 12

#: The mark of a slow node is ignored for this many times the wait for the node.
IGNORED_WAITS = 2

#: How many marks one transaction removes, at most.
MAX_REMOVED_MARKS = 8


class TurnQueue:
    """
    The queue as one node sees it.

    All times are seconds on one monotonic clock.

    @ivar node: the name of this node in the queue.
    @ivar usual_seconds: how long a transaction of this node usually takes; 0 before the
        first transaction has ended.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._ahead: list[Mark] = []
        self._overdue_marks: list[Mark] = []
        # For each other node: etcd's revision of the newest commit that was reported since
        # the last answer.
        self._newest_commits: dict[str, int] = {}
        # Whether other nodes commit, too.
        self._others_active = False
        # By mark: when this node first saw the mark.
        self._seen_at: dict[Mark, float] = {}
        # When the turn of the first node in the queue, perhaps this node, began.
        self._turn_began_at = 0.0
        # Whether this node had steps to commit when its last turn began, or shortly after.
        self._steps_arrived_in_time = True
        self.usual_seconds = 0.0

    @property
    def keeps_place(self) -> bool:
        """
        Return whether the next transaction should put this node's mark, if it succeeds.
        """
        return self._others_active and self._steps_arrived_in_time

    @property
    def overdue_marks(self) -> list[Mark]:
        """
        Return the marks that the next transaction should remove.
        """
        return self._overdue_marks[:MAX_REMOVED_MARKS]

    def request_turn(self, now: float) -> None:
        """
        Record that this node has steps to commit.
        """
        self._steps_arrived_in_time = (
            bool(self._ahead) or now <= self._turn_began_at + self.usual_seconds
        )

    def delay(self, now: float) -> float:
        """
        Return how many seconds to wait for other nodes; 0 if it is this node's turn.
        """
        while self._ahead:
            if self._is_ignored(self._ahead[0], now):
                del self._ahead[0]
                continue
            left = self._turn_began_at + self._max_wait(self._ahead[0]) - now
            if left > 0:
                return left
            self._overdue_marks.append(self._ahead.pop(0))
            self._turn_began_at = now
        return 0.0

    def _max_wait(self, mark: Mark) -> float:
        """
        Return for how many seconds to wait for the node of C{mark}.
        """
        wait = self._turn_duration(mark, SOFT_TRANSACTIONS)
        if mark.hard or self._is_slow(mark):
            wait = max(self._turn_duration(mark, HARD_TRANSACTIONS), MIN_HARD_SECONDS)
        return min(wait, MAX_TURN_SECONDS)

    def _turn_duration(self, mark: Mark, transactions: int) -> float:
        # The report that the turn has ended takes about as long as a transaction of the
        # node that waits.
        return self.usual_seconds + transactions * mark.usual_seconds

    def _is_slow(self, mark: Mark) -> bool:
        longest = MAX_OWN_TRANSACTIONS * self.usual_seconds
        return self._turn_duration(mark, HARD_TRANSACTIONS) > longest > 0

    def _is_ignored(self, mark: Mark, now: float) -> bool:
        """
        Return whether no node waits yet for the node of C{mark}, because the node is slow.
        """
        seconds = now - self._seen_at.get(mark, now)
        return self._is_slow(mark) and seconds < IGNORED_WAITS * self._max_wait(mark)

    def note_commit(self, now: float, author: str, revision: int) -> None:
        """
        Record that C{author} has committed, in etcd's revision C{revision}.
        """
        if author == self.node:
            return
        self._others_active = True
        self._newest_commits[author] = max(revision, self._newest_commits.get(author, 0))
        first = self._ahead[:1]
        # A mark that the author put with this commit, or later, remains: it is for the
        # author's next turn.
        self._ahead = [mark for mark in self._ahead if not self._is_over(mark)]
        if first != self._ahead[:1]:
            self._turn_began_at = now

    def _is_over(self, mark: Mark) -> bool:
        return mark.mod_revision < self._newest_commits.get(mark.node, 0)

    def note_answer(
        self,
        now: float,
        duration: float,
        revision: int,
        marks: Sequence[Mark],
        *,
        stored: bool,
    ) -> None:
        """
        Record the answer to the transaction of a batch of this node.

        @param duration: how many seconds the transaction took.
        @param revision: etcd's revision in the answer.
        @param marks: the marks in the answer, in the order of the queue.
        @param stored: whether the batch is stored, so that all other nodes are ahead.
        """
        others = [mark for mark in marks if mark.node != self.node]
        ahead = others
        if not stored:
            ahead = [*takewhile(lambda mark: mark.node != self.node, marks)]
        # The watch may have reported later commits of other nodes before this answer.
        self._others_active = (
            not stored
            or bool(others)
            or any(newest > revision for newest in self._newest_commits.values())
        )
        self._seen_at = {mark: self._seen_at.get(mark, now) for mark in others}
        weight = NEWEST_DURATION_WEIGHT if self.usual_seconds else 1.0
        newest = min(duration, MAX_TURN_SECONDS)
        self.usual_seconds += weight * (newest - self.usual_seconds)
        # No node waits for an overdue mark, until the node of the mark puts it again.
        self._overdue_marks = [mark for mark in self._overdue_marks if mark in ahead]
        self._ahead = [
            mark
            for mark in ahead
            if mark not in self._overdue_marks and not self._is_over(mark)
        ]
        self._newest_commits.clear()
        self._turn_began_at = now
