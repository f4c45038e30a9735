"""
The committer with C{--synchronous-commit off}.

This committer sends I{early responses}: it responds before the commit, and reads show the
latest state.  The commit begins L{DELAY_SECONDS} after the first step of the batch.  If
another commit is in progress then, the commit begins when the other one ends.

If a commit fails, the acknowledged steps of its batch and of the open batch are lost, and
the log has their number.  To lose no more steps, the committer sends no early responses
until the store has accepted a batch.
"""

from __future__ import annotations

from typing import Any

from pexservice.commit.committer import Committer
from pexservice.commit.group_commit import PendingBatch, WaitingRequest
from pexservice.commit.interface import Outcome, Step, Waiter
from pexservice.core.cursor import State
from pexservice.stores.errors import OutcomeUnknown, Refusal

#: How long a batch collects steps.
DELAY_SECONDS = 0.01

#: How many steps of a batch get early responses.  The other steps of the batch wait for the
#: commit.  So if the disk hangs, at most twice this number of acknowledged steps is lost:
#: those of the committing batch and those of the open batch.  At 100,000 steps a second,
#: 1,000 steps arrive in L{DELAY_SECONDS}.
MAX_EARLY_RESPONSES = 4096

# Aliases for speed; see L{Outcome}.
_APPLIED, _READ = Outcome.APPLIED, Outcome.READ


class AsynchronousCommitter(Committer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._responds_early = True

    @property
    def visible(self) -> State:
        return self._latest if self._responds_early else self.durable

    def read(self, waiter: Waiter) -> None:
        if self._responds_early and self.read_refusal is None:
            waiter.respond(_READ, self._latest)
        else:
            super().read(waiter)

    def _add(self, step: Step, waiter: Waiter) -> None:
        super()._add(step, waiter)
        batch = self._open_batch
        if self._responds_early and len(batch.transitions) <= MAX_EARLY_RESPONSES:
            # The waiter gets its outcome now, and not after the commit.
            batch.waiting_requests.pop()
            waiter.respond(_APPLIED, self._latest)

    def _respond_without_step(
        self, request: WaitingRequest, batch: PendingBatch | None
    ) -> None:
        # If all steps of the batch had early responses, the state was shown already.
        # Otherwise the state may be the result of a step that has no response yet.
        if (
            batch is not None
            and self._responds_early
            and len(batch.transitions) <= MAX_EARLY_RESPONSES
        ):
            batch = None
        super()._respond_without_step(request, batch)

    def _schedule_commit(self) -> None:
        if not self._responds_early:
            super()._schedule_commit()
            return
        # The delay is longer than the maximum wait of the BatchingPolicy, so the batch is
        # ready after the delay.  If the steps have waited during a commit, only the rest of
        # the delay remains.
        waited = max(self._seconds() - self._policy.began, 0.0)
        rest = max(DELAY_SECONDS - waited, 0.0)
        self._scheduled_call = self._reactor.callLater(rest, self._commit_or_wait)

    def _commit_succeeded(self, batch: PendingBatch, after: State) -> None:
        self._responds_early = True
        super()._commit_succeeded(batch, after)

    def _roll_back(
        self,
        refusal: Refusal,
        batch: PendingBatch | None = None,
        error: Exception | None = None,
    ) -> None:
        batches = [batch, self._open_batch] if batch is not None else [self._open_batch]
        lost_steps = sum(map(_acknowledged_steps, batches))
        if lost_steps:
            consequence = "; responses wait for the disk until the store accepts a batch"
            self._log.critical(
                "{refusal}: {bound}{count} acknowledged steps are lost{consequence}",
                refusal=refusal,
                bound="up to " if isinstance(error, OutcomeUnknown) else "",
                count=lost_steps,
                consequence="" if self._stopped else consequence,
            )
        self._responds_early = False
        super()._roll_back(refusal, batch, error)


def _acknowledged_steps(batch: PendingBatch) -> int:
    waiting = sum(outcome is _APPLIED for _, _, outcome, _ in batch.waiting_requests)
    return len(batch.transitions) - waiting
