"""
The rule for how long the open batch waits for more steps.

If more steps are about to arrive, a wait multiplies the throughput.  If no steps arrive, a
wait only adds latency.  The clients of the last batch usually send their next steps soon
after their responses.  So the policy expects as many steps as the last batch had.

An iteration of the event loop is I{quiet} if it added no step to the batch.  A batch is
ready when one of these three conditions is met:

  - The batch has as many steps as the last batch, or more, and the last iteration was
    quiet.  If the batch did not wait for a quiet iteration, batches would hardly grow.
  - The quiet iterations have taken as long, in sum, as an average commit.
  - The batch has waited for C{max_wait} seconds.

The policy reads no clock.  Its callers pass C{now}, the seconds of the reactor's clock.
"""

from __future__ import annotations

#: A batch waits at most this many times the average duration of a commit.  A longer wait
#: costs more than it can save.
MAX_WAIT_COMMITS = 3

#: If commits are slow, a batch waits at most this long.
MAX_WAIT_SECONDS = 0.002

#: How long the policy expects the first commit to take: the median on the reference disk.
INITIAL_COMMIT_SECONDS = 0.00025

#: The weight of the newest commit in the moving average of the durations of commits.
NEWEST_WEIGHT = 0.1


class BatchingPolicy:
    """
    The decision whether the open batch waits for more steps.

    @ivar began_at: when the first step of the batch arrived.
    @ivar is_quiet: whether the last iteration was quiet.
    @ivar max_wait: how many seconds a batch waits at most.
    """

    def __init__(self) -> None:
        self._expected_steps = 1
        self._set_commit_seconds(INITIAL_COMMIT_SECONDS)
        self.begin_batch(0.0)

    def _set_commit_seconds(self, seconds: float) -> None:
        self._commit_seconds = seconds
        self.max_wait = min(MAX_WAIT_COMMITS * seconds, MAX_WAIT_SECONDS)

    def begin_batch(self, now: float) -> None:
        """
        Begin to wait, because the first step of a batch has arrived.
        """
        self.is_quiet = False
        self.began_at = self._last_checked_at = now
        self._last_step_count = 0
        self._quiet_seconds = 0.0

    def end_iteration(self, step_count: int, now: float) -> None:
        """
        Note how many steps the batch has at the end of an iteration.
        """
        self.is_quiet = step_count == self._last_step_count
        if self.is_quiet:
            self._quiet_seconds += now - self._last_checked_at
        self._last_step_count, self._last_checked_at = step_count, now

    def is_ready(self, now: float) -> bool:
        if self.is_quiet and self._last_step_count >= self._expected_steps:
            return True
        return (
            self._quiet_seconds >= self._commit_seconds
            or now - self.began_at >= self.max_wait
        )

    def learn(self, step_count: int, seconds: float) -> None:
        """
        Learn from a commit of C{step_count} steps that took C{seconds}.
        """
        # With twistd --reactor=asyncio, the seconds are those of the wall clock.  If this
        # clock is set during a commit, the average is wrong for about a hundred commits.
        # Meanwhile, batches wait for MAX_WAIT_SECONDS, or not at all.
        self._expected_steps = step_count
        change = seconds - self._commit_seconds
        self._set_commit_seconds(self._commit_seconds + NEWEST_WEIGHT * change)
