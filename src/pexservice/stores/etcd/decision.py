"""
The decision about what became of a transaction.

A batch happens if the cursor's key is still as this node knows it: its value, and etcd's
revision of the last change.  Every batch changes it, so a transaction that was sent more
than once, or arrives late, happens at most once, and never after another one has.

When no answer comes the identical transaction is sent again, until one does:

  - it succeeded: the batch happened now, and no other copy of it can any more;
  - it did not, and the operation key has its number: a copy of it happened before;
  - it did not, the operation key has another number, and the cursor's key has changed:
    the batch never happened and never will;
  - else its fate is unknown, as it is when no answer comes in time.

The operation key has the number of this process's last batch that happened.  It is
written in the same transaction, and it is there before the first, so its absence says
that nobody can know, and never that nothing happened.  No clock is asked.

When etcd runs out of space it says so of a transaction that it has made, too.  So that
answer counts as none, and etcd's state is read to see what happened.
"""

from __future__ import annotations

from enum import Enum, auto

from attrs import frozen

from pexservice.stores.etcd import messages
from pexservice.stores.etcd.caller import (
    ATTEMPT,
    DEADLINE,
    RESOURCE_EXHAUSTED,
    Caller,
    Refused,
    Unanswered,
)
from pexservice.stores.etcd.messages import Found, Operation
from pexservice.stores.etcd.records import BadRecord, Cursor, Keys, Message, read_cursor
from pexservice.stores.interface import Batch, NotTaken, OutcomeUnknown


class Fate(Enum):
    """
    The fate of a batch.
    """

    HAPPENED = auto()
    #: The batch has not happened, and never will.
    NEVER = auto()
    UNKNOWN = auto()


@frozen
class Attempt:
    """
    A transaction that is to be decided.

    @ivar message: the transaction, as L{messages.transaction} makes it.
    @ivar base: the cursor that it is compared with.
    """

    caller: Caller
    keys: Keys
    message: Message
    batch: Batch
    base: Cursor
    operation: Operation

    async def decide(self) -> tuple[Fate, Found]:
        """
        Send the transaction until its fate is known.

        @raise NotTaken: it has not happened and never will, for no fault of the cursor.
        @raise OutcomeUnknown: etcd did not answer in time.
        """
        clock = self.caller.clock
        # Whether copies of the message may still be under way.
        loose, end, number = False, clock.seconds() + DEADLINE, 0
        problems: dict[str, None] = {}
        while True:
            try:
                return await self._send(loose=loose)
            except Refused as error:
                if not loose:
                    raise NotTaken(f"etcd refuses: {error}") from error
                problems[str(error)] = None
            except Unanswered as error:
                loose = loose or error.sent
                problems[str(error)] = None
            except BadRecord as error:
                raise (OutcomeUnknown if loose else NotTaken)(str(error)) from error
            if clock.seconds() + ATTEMPT >= end:
                kind = OutcomeUnknown if loose else NotTaken
                raise kind(f"etcd does not answer: {'; '.join(problems)}")
            await self.caller.pause(number)
            number += 1

    async def _send(self, *, loose: bool) -> tuple[Fate, Found]:
        """
        Send the transaction once.

        @raise Refused: this copy has not happened and never will.
        @raise Unanswered: whether this copy happened is not known, if it was C{sent}.
        """
        try:
            answer = await self.caller.call("kv/txn", self.message)
        except Refused as error:
            if error.code != RESOURCE_EXHAUSTED:
                raise
            decision = await self._look()
            if decision is None:
                raise
            return decision
        if answer.get("succeeded"):
            return self._happened(answer)
        found = messages.read_found(self.keys, answer, self._names)
        return self._judge(found, loose=loose), found

    async def _look(self) -> tuple[Fate, Found] | None:
        """
        Read what became of the last copy, and of the others.

        @return: C{None} if no copy has happened yet.
        """
        names = self._names
        try:
            answer = await self.caller.call(
                "kv/txn", messages.look(self.keys, self.operation, names)
            )
        except (Refused, Unanswered) as error:
            raise Unanswered(str(error), sent=True) from error
        found = messages.read_found(self.keys, answer, names)
        happened = found.operation == self.operation.number
        if not happened and found.cursor == self.base:
            return None
        return self._judge(found, loose=True), found

    @property
    def _names(self) -> list[bytes]:
        return [name for name, _ in self.batch.keys]

    def _happened(self, answer: Message) -> tuple[Fate, Found]:
        revision = answer["header"]["revision"]
        put = self.message["success"][0]["request_put"]
        return Fate.HAPPENED, Found(
            int(revision),
            read_cursor({**put, "mod_revision": revision}),
            self.operation.number,
            {},
            messages.read_marks(self.keys, answer),
        )

    def _judge(self, found: Found, *, loose: bool) -> Fate:
        """
        Judge the fate of the batch by etcd's state, in which the last copy changed nothing.

        @param loose: whether there may be other copies.
        """
        # When the lease has ended no copy can happen any more; but one may have.
        gone = found.operation is None
        moved = found.cursor != self.base
        if found.operation == self.operation.number:
            return Fate.HAPPENED
        if loose and (gone if moved else found.used):
            # It cannot be seen any more whether a copy happened; or a copy may still,
            # if the used keys are forgotten before it comes.
            return Fate.UNKNOWN
        return Fate.NEVER
