"""
The decision whether a batch is stored.

The transaction of a batch requires that the cursor's key has the value that this node
knows, and the same revision of its last change in etcd.  Every transaction of a batch
changes this key.  So if a transaction is sent several times, or arrives late, it succeeds
at most once, and never after another batch was stored.

Each transaction also writes the number of the batch into the I{operation key} of its
process.  This key exists before the first batch of the process.  So its value is the number
of the last batch that was stored.  If the key is missing, the outcome cannot be known.

If no answer arrives, the same transaction is sent again, until an answer shows the outcome:

  - The transaction succeeded.  The batch is stored, and no other copy of the transaction
    can succeed any more.
  - The transaction failed, and the operation key has the number of this batch.  An earlier
    copy succeeded, so the batch is stored.
  - The transaction failed, the operation key has another number, and the cursor's key has
    changed.  The batch is not stored, and will not be stored later.
  - In other cases, and when no answer arrives in time, the outcome is unknown.

No decision depends on a clock.

When etcd runs out of space, it reports this error even for the transaction that used the
last space and succeeded.  So after this error, the outcome is read from etcd's state.
"""

from __future__ import annotations

from enum import Enum, auto

from attrs import frozen

from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import (
    RESOURCE_EXHAUSTED,
    CallRefused,
    CallUnanswered,
    Gateway,
    explain,
    retry_until_answered,
)
from pexservice.stores.etcd.messages import Observation, OperationKey
from pexservice.stores.etcd.records import (
    CursorRecord,
    ForeignRecord,
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
class Attempt:
    """
    The transaction of a batch, which is sent until its outcome is known.

    @ivar message: the transaction, as L{messages.commit} makes it.
    @ivar base: the cursor that the transaction requires.
    """

    gateway: Gateway
    layout: Layout
    message: Message
    batch: Batch
    base: CursorRecord
    operation: OperationKey

    async def decide(self) -> tuple[BatchOutcome, Observation]:
        """
        Send the transaction until its outcome is known.

        @raise Refusal: etcd refused the transaction.  The batch is not stored, and will not
            be stored later.
        @raise OutcomeUnknown: etcd did not answer in time.
        """
        # Whether copies of the transaction may have succeeded, or may still arrive.
        copies_left = False

        async def attempt() -> tuple[BatchOutcome, Observation]:
            nonlocal copies_left
            try:
                return await self._send(copies_left=copies_left)
            except CallRefused as error:
                if not copies_left:
                    raise Refusal(explain(error)) from error
                raise CallUnanswered(str(error), sent=True) from error
            except CallUnanswered as error:
                copies_left = copies_left or error.sent
                raise
            except ForeignRecord as error:
                raise (OutcomeUnknown if copies_left else Refusal)(str(error)) from error

        try:
            return await retry_until_answered(self.gateway, attempt)
        except CallUnanswered as error:
            kind = OutcomeUnknown if copies_left else Refusal
            raise kind(explain(error)) from error

    async def _send(self, *, copies_left: bool) -> tuple[BatchOutcome, Observation]:
        """
        Send the transaction once.

        @raise CallRefused: this copy has no effect, now or later.
        @raise CallUnanswered: if it was C{sent}, this copy may have succeeded.
        """
        try:
            answer = await self.gateway.call("kv/txn", self.message)
        except CallRefused as error:
            if error.code != RESOURCE_EXHAUSTED:
                raise
            observation = await self._observe()
            if (
                observation.operation != self.operation.number
                and observation.record == self.base
            ):
                # No copy has succeeded so far.
                raise
            return self._judge(observation, copies_left=True), observation
        if answer.get("succeeded"):
            revision = answer["header"]["revision"]
            put = self.message["success"][0]["request_put"]
            return BatchOutcome.STORED, Observation(
                int(revision),
                decode_cursor({**put, "mod_revision": revision}),
                self.operation.number,
                {},
                messages.read_marks(self.layout, answer),
            )
        observation = messages.read_observation(self.layout, answer, self.batch.keys)
        return self._judge(observation, copies_left=copies_left), observation

    async def _observe(self) -> Observation:
        """
        Read the state of etcd that shows whether a copy has succeeded.
        """
        names = self.batch.keys
        try:
            answer = await self.gateway.call(
                "kv/txn", messages.observe(self.layout, self.operation, names)
            )
        except (CallRefused, CallUnanswered) as error:
            raise CallUnanswered(str(error), sent=True) from error
        return messages.read_observation(self.layout, answer, names)

    def _judge(self, observation: Observation, *, copies_left: bool) -> BatchOutcome:
        """
        Return the outcome after the last copy has failed.

        @param observation: the state of etcd that this copy found.
        @param copies_left: whether earlier copies may have succeeded, or may still arrive.
        """
        if observation.operation == self.operation.number:
            return BatchOutcome.STORED
        if not copies_left:
            return BatchOutcome.NOT_STORED
        if observation.record != self.base:
            # The cursor has moved, so no copy can succeed any more.  Only the operation key
            # shows whether an earlier copy has succeeded.
            is_known = observation.operation is not None
        else:
            # No copy has succeeded.  The batch has idempotency keys that were used before.
            # If these are removed from etcd, a copy that arrives later may succeed.
            is_known = not observation.used
        return BatchOutcome.NOT_STORED if is_known else BatchOutcome.UNKNOWN
