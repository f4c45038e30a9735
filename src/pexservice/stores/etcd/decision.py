"""
The decision whether a transaction happened.

A batch happens if the cursor's key is still as this node knows it: its value, and etcd's
revision of the last change.  Every batch changes it.  So a transaction that was sent more
than once, or arrives late, happens at most once, and never after another one has.

If no answer arrives, the same transaction is sent again until an answer comes:

  - It succeeds: the batch happened now, and no other copy of it can happen any more.
  - It fails, and the operation key has its number: a copy of it happened before.
  - It fails, the operation key has another number, and the cursor's key has changed: the
    batch never happened and never will.
  - Else the outcome is unknown, as it is when no answer arrives in time.

The operation key has the number of this process's last batch that happened.  It is written
in the same transaction, and it exists before the first one.  So if it is missing, the
outcome cannot be known.  No clock is read.

When etcd runs out of space, it reports that even for the transaction that filled the space.
So this answer does not count, and etcd's state is read to find the outcome.
"""

from __future__ import annotations

from enum import Enum, auto

from attrs import frozen

from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import (
    RESOURCE_EXHAUSTED,
    CallRefused,
    CallUnanswered,
    Gateway,
    retry_until_answered,
)
from pexservice.stores.etcd.messages import Observation, OperationKey
from pexservice.stores.etcd.records import (
    CursorRecord,
    ForeignRecord,
    Keys,
    Message,
    decode_cursor,
)
from pexservice.stores.interface import Batch, OutcomeUnknown, Refusal


class BatchOutcome(Enum):
    """
    Whether a batch happened.
    """

    TAKEN = auto()
    #: The batch has not happened, and never will.
    NOT_TAKEN = auto()
    UNKNOWN = auto()


@frozen
class Attempt:
    """
    A transaction whose outcome is to be decided.

    @ivar message: the transaction, as L{messages.transaction} makes it.
    @ivar base: the cursor that it is compared with.
    """

    gateway: Gateway
    keys: Keys
    message: Message
    batch: Batch
    base: CursorRecord
    operation: OperationKey

    async def decide(self) -> tuple[BatchOutcome, Observation]:
        """
        Send the transaction until its outcome is known.

        @raise Refusal: it has not happened and never will, but not because of the cursor.
        @raise OutcomeUnknown: etcd did not answer in time.
        """
        # Whether copies of the message may still arrive.
        copies_left = False

        async def attempt() -> tuple[BatchOutcome, Observation]:
            nonlocal copies_left
            try:
                return await self._send(copies_left=copies_left)
            except CallRefused as error:
                if not copies_left:
                    raise Refusal(f"etcd refuses: {error}") from error
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
            raise kind(f"etcd does not answer: {error}") from error

    async def _send(self, *, copies_left: bool) -> tuple[BatchOutcome, Observation]:
        """
        Send the transaction once.

        @raise CallRefused: this copy has not happened and never will.
        @raise CallUnanswered: whether this copy happened is not known, if it was C{sent}.
        """
        try:
            answer = await self.gateway.call("kv/txn", self.message)
        except CallRefused as error:
            if error.code != RESOURCE_EXHAUSTED:
                raise
            observation = await self._observe()
            if (
                observation.operation != self.operation.number
                and observation.cursor == self.base
            ):
                # No copy has happened yet.
                raise
            return self._judge(observation, copies_left=True), observation
        if answer.get("succeeded"):
            revision = answer["header"]["revision"]
            put = self.message["success"][0]["request_put"]
            return BatchOutcome.TAKEN, Observation(
                int(revision),
                decode_cursor({**put, "mod_revision": revision}),
                self.operation.number,
                {},
                messages.read_marks(self.keys, answer),
            )
        observation = messages.read_observation(self.keys, answer, self.batch.keys)
        return self._judge(observation, copies_left=copies_left), observation

    async def _observe(self) -> Observation:
        """
        Read etcd's state, which shows whether a copy has happened.
        """
        names = self.batch.keys
        try:
            answer = await self.gateway.call(
                "kv/txn", messages.observe(self.keys, self.operation, names)
            )
        except (CallRefused, CallUnanswered) as error:
            raise CallUnanswered(str(error), sent=True) from error
        return messages.read_observation(self.keys, answer, names)

    def _judge(self, observation: Observation, *, copies_left: bool) -> BatchOutcome:
        """
        Judge the outcome by etcd's state, in which the last copy changed nothing.

        @param copies_left: whether other copies may still arrive.
        """
        if observation.operation == self.operation.number:
            return BatchOutcome.TAKEN
        # When the lease has ended no copy can happen any more, but one may have.
        gone = observation.operation is None
        moved = observation.cursor != self.base
        if copies_left and (gone if moved else observation.used):
            # Nothing shows any more whether a copy happened.  Or a copy may happen yet, if
            # the used keys are forgotten before it arrives.
            return BatchOutcome.UNKNOWN
        return BatchOutcome.NOT_TAKEN
