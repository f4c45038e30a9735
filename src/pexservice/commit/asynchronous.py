"""
The committer with C{--synchronous-commit off}.

This committer sends I{early responses}: it responds to a step before the commit, and reads
show the latest state.  The commit begins L{DELAY_SECONDS} after the first step of the
batch, or later, if another commit is in progress then.

If a commit fails, the acknowledged steps of its batch and of the open batch are lost, and
the log has their number.  If the process continues, the committer takes care to lose no
more steps: it responds to a step only after the commit, and reads show the durable state.
Early responses begin again when the store has accepted a batch, and would also accept the
batch that it refused before.
"""

from __future__ import annotations

from typing import Any

from pexservice.commit.committer import Committer
from pexservice.commit.group_commit import FailedBatch, PendingBatch
from pexservice.commit.interface import Outcome, Waiter
from pexservice.core.cursor import State
from pexservice.stores.errors import OutcomeUnknown

#: How long a batch collects steps.
DELAY_SECONDS = 0.01

#: How many steps of a batch get early responses.  Later steps of the batch wait for the
#: commit.  So if the disk hangs, at most twice this number of acknowledged steps is lost:
#: the committing batch and the open batch may each have this number.  At 100,000 steps a
#: second, 1,000 steps arrive in L{DELAY_SECONDS}.
MAX_EARLY_RESPONSES = 4096

# Aliases for speed; see L{Outcome}.
_APPLIED, _READ = Outcome.APPLIED, Outcome.READ


class AsynchronousCommitter(Committer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._max_early_responses = MAX_EARLY_RESPONSES

    @property
    def visible(self) -> State:
        return self._latest if self._max_early_responses else self.durable

    def read(self, waiter: Waiter) -> None:
        if self._max_early_responses and self.read_refusal is None:
            waiter.respond(_READ, self._latest)
        else:
            super().read(waiter)

    def _schedule_commit(self) -> None:
        if not self._max_early_responses:
            super()._schedule_commit()
            return
        # After DELAY_SECONDS, _commit_or_wait finds the batch ready, because the delay is
        # longer than the maximum wait of the BatchingPolicy.  If the batch has waited for
        # the end of another commit already, only the rest of the delay remains.
        waited = max(self._seconds() - self._policy.began_at, 0.0)
        rest = max(DELAY_SECONDS - waited, 0.0)
        self._scheduled_call = self._reactor.callLater(rest, self._commit_or_wait)

    def _commit_succeeded(self, batch: PendingBatch, after: State) -> None:
        # A nearly full disk may have space for a small batch, and none for the next batch.
        if not self._max_early_responses and self.step_refusal is None:
            self._max_early_responses = MAX_EARLY_RESPONSES
        super()._commit_succeeded(batch, after)

    def _roll_back(self, *failed: FailedBatch) -> None:
        lost_steps = sum(_acknowledged_steps(batch) for batch, _ in failed)
        first_error, last_error = failed[0][1], failed[-1][1]
        if lost_steps:
            consequence = "; responses wait for the disk until the store accepts steps"
            self._log.critical(
                "{refusal}: {bound}{count} acknowledged steps are lost{consequence}",
                refusal=last_error,
                bound="up to " if isinstance(first_error, OutcomeUnknown) else "",
                count=lost_steps,
                consequence="" if self._own_refusal else consequence,
            )
        self._max_early_responses = 0
        super()._roll_back(*failed)


def _acknowledged_steps(batch: PendingBatch) -> int:
    waiting = sum(outcome is _APPLIED for _, _, outcome, _ in batch.waiting_requests)
    return len(batch.transitions) - waiting
