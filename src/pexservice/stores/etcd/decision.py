"""
The decision whether a batch is stored.

A batch is one transaction in etcd.  The transaction succeeds only if the cursor's key has
the value that this node knows, and if etcd's revision of the last change of this key is the
one that this node knows.  Every transaction of a batch changes this key.  So even if copies
of a transaction are sent, or arrive late, at most one copy succeeds, and no copy succeeds
after another batch was stored.

Each process has its own key in etcd, the I{last-batch key}.  It contains the number of the
last batch of this process that was stored, because each transaction writes the number of
its batch there.  The process makes this key before its first batch, and each transaction
requires it.  If the key is missing, etcd has removed it with its lease.  A missing key does
not show the outcome, but no copy of the transaction can succeed any more.

If the answer to the first copy is that the transaction failed, the batch is not stored.  If
no answer arrives, the same transaction is sent again, until an answer shows the outcome:

  - The transaction succeeded.  The batch is stored, and no other copy of the transaction
    can succeed any more.
  - The transaction failed, and the last-batch key has the number of this batch.  An earlier
    copy succeeded, so the batch is stored.
  - The transaction failed, the last-batch key has another number, and the cursor's key has
    changed.  No copy has succeeded, and none can succeed later.  The batch is not stored.
  - The transaction failed only because the last-batch key is missing.  No copy has
    succeeded, and none can succeed later.  The batch is not stored.
  - In other cases, and when no answer arrives in time, the outcome is unknown.

No decision depends on a clock.

The transaction that uses the last space of etcd may succeed although etcd reports an error.
So after an error about space, this module reads the outcome from etcd.
"""

from __future__ import annotations

from enum import Enum, auto

from attrs import frozen

from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import (
    RESOURCE_EXHAUSTED,
    CallFailed,
    CallRefused,
    CallUnanswered,
    Gateway,
    retry_until_answered,
)
from pexservice.stores.etcd.messages import LastBatchKey, Observation
from pexservice.stores.etcd.records import (
    CursorRecord,
    Layout,
    Message,
    decode_cursor,
)
from pexservice.stores.interface import Batch


class BatchOutcome(Enum):
    """
    Whether a batch is stored.
    """

    STORED = auto()
    #: The batch is not stored, and will not be stored later.
    NOT_STORED = auto()
    UNKNOWN = auto()


@frozen
class BatchTransaction:
    """
    The transaction of a batch, which is sent until its outcome is known.

    @ivar message: the transaction, as L{messages.commit} makes it.
    @ivar base: the cursor's record that the transaction requires.
    @ivar last_batch_key: the last-batch key, with the number of this batch.
    """

    gateway: Gateway
    layout: Layout
    message: Message
    batch: Batch
    base: CursorRecord
    last_batch_key: LastBatchKey

    async def send(self) -> tuple[BatchOutcome, Observation]:
        """
        Send copies of the transaction until the outcome of the batch is known.

        @raise Refusal: the transaction could not be sent, or etcd refused it.  The batch is
            not stored, and will not be stored later.
        @raise OutcomeUnknown: no answer in time showed the outcome.
        """
        # Whether earlier copies may have succeeded, or may still arrive.
        copies_sent = False

        async def attempt() -> tuple[BatchOutcome, Observation]:
            nonlocal copies_sent
            try:
                return await self._send_copy(copies_sent=copies_sent)
            except CallRefused as error:
                if not copies_sent:
                    raise
                raise CallUnanswered(error.reason, sent=True) from error
            except CallUnanswered as error:
                copies_sent = copies_sent or error.sent
                raise

        try:
            return await retry_until_answered(self.gateway, attempt)
        except Refusal as error:
            if copies_sent:
                raise OutcomeUnknown(str(error)) from error
            raise

    async def _send_copy(self, *, copies_sent: bool) -> tuple[BatchOutcome, Observation]:
        """
        Send the transaction once.

        @raise CallRefused: this copy has not succeeded, and will not succeed later.
        @raise CallUnanswered: a copy may have succeeded if C{sent} is true.
        """
        try:
            answer = await self.gateway.call("kv/txn", self.message)
        except CallRefused as error:
            if error.code != RESOURCE_EXHAUSTED:
                raise
            observation = await self._observe()
            if (
                observation.last_batch != self.last_batch_key.number
                and observation.record == self.base
            ):
                # No copy has succeeded so far.
                raise
            return self._judge(observation, copies_sent=True), observation
        if answer.get("succeeded"):
            revision = answer["header"]["revision"]
            put = self.message["success"][0]["request_put"]
            return BatchOutcome.STORED, Observation(
                int(revision),
                decode_cursor({**put, "mod_revision": revision}),
                self.last_batch_key.number,
                {},
                messages.decode_marks(self.layout, answer),
            )
        observation = messages.decode_observation(self.layout, answer, self.batch.keys)
        return self._judge(observation, copies_sent=copies_sent), observation

    async def _observe(self) -> Observation:
        """
        Read the state of etcd that shows whether a copy has succeeded.
        """
        names = self.batch.keys
        try:
            answer = await self.gateway.call(
                "kv/txn", messages.observe(self.layout, self.last_batch_key, names)
            )
        except CallFailed as error:
            raise CallUnanswered(error.reason, sent=True) from error
        return messages.decode_observation(self.layout, answer, names)

    def _judge(self, observation: Observation, *, copies_sent: bool) -> BatchOutcome:
        """
        Return the outcome of the batch after the last copy has failed.

        @param observation: the state of etcd when this copy failed.
        @param copies_sent: whether earlier copies may have succeeded, or may still arrive.
        """
        if observation.last_batch == self.last_batch_key.number:
            return BatchOutcome.STORED
        if not copies_sent:
            return BatchOutcome.NOT_STORED
        if observation.record != self.base:
            # The cursor has moved, so no copy can succeed any more.  Only the last-batch
            # key shows whether an earlier copy has succeeded.
            is_known = observation.last_batch is not None
        else:
            # The cursor has not moved, so no copy has succeeded.  This copy failed for one
            # of two reasons.  If an idempotency key was used before, a late copy may
            # succeed once that key is removed as an old key.  Otherwise the last-batch key
            # is missing.  It never comes back, so each late copy fails too.
            is_known = not observation.used
        return BatchOutcome.NOT_STORED if is_known else BatchOutcome.UNKNOWN
