"""
The policy that decides how long a batch waits for company.

A durable commit costs the same for one transition as for a thousand, so waiting for steps
that are about to arrive multiplies the throughput, and waiting when none arrives only
adds latency.  Clients on keep-alive connections send in step: as many as shared the last
batch will be back within a moment of its answer.  So a batch is ready when as many
transitions wait as shared the last batch and the last turn of the reactor brought no
more, or when waiting cannot pay any more.

The quiet turn lets batches grow.  New connections are accepted a few a turn (one, on
reactors other than uvloop's), and without a quiet turn a batch of one is followed by a
batch of one for as long as other connections queue.

Pure: the policy is fed with counts and durations, and reads no clock.  The durations are
by the reactor's clock; see L{group_commit}.
"""

from __future__ import annotations

#: Waiting longer than this many usual commits cannot pay.
COMMITS = 3

#: No batch waits longer than this for company, however slow commits are.  Seconds.  Where
#: steps are answered first another delay holds, L{committer.LONGEST_DELAY}; on etcd a node
#: waits for its turn besides.
LONGEST_WAIT = 0.002

#: The assumed duration of a commit before one was measured.  Seconds; the reference
#: disk's median.
FIRST_GUESS = 0.00025

#: The weight of the newest commit in the usual duration.
NEWEST = 0.1


class BatchingPolicy:
    """
    The policy for one committer.
    """

    def __init__(self) -> None:
        self._expected = 1
        self._usual = FIRST_GUESS

    def ready(self, waiting: int, *, quiet: bool, idle: float, waited: float) -> bool:
        """
        Return whether a batch is to be committed now.

        @param waiting: how many transitions share the batch.
        @param quiet: whether the last turn of the reactor brought no more transitions.
        @param idle: how long all such turns took.  Seconds, as all times here.
        @param waited: how long ago the first transition came.
        """
        if quiet and waiting >= self._expected:
            return True
        return idle >= self._usual or waited >= self.longest_wait

    @property
    def longest_wait(self) -> float:
        """
        Return the seconds that a batch may wait for company.
        """
        return min(COMMITS * self._usual, LONGEST_WAIT)

    def committed(self, size: int, seconds: float) -> None:
        """
        Learn that C{size} transitions shared a commit that took C{seconds}.
        """
        self._expected = size
        self._usual += NEWEST * (seconds - self._usual)
