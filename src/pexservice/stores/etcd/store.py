"""
The store of many nodes: each batch a compare-and-swap on the cursor's key.

A batch happens if the cursor's key is still as this node knows it, by etcd's revision
of the last change.  Every batch changes it, so a transaction that was sent more than
once, or arrives late, happens at most once, and never after another one has.

When no answer comes the identical transaction is sent again, until one does:

- it succeeded: it happened now, and no copy of it can any more;
- it did not, and the operation key has its number: a copy of it happened before;
- it did not, the operation key has another number, and the cursor's key has changed:
  it never happened and never will;
- else the outcome is unknown, as it is when no answer comes in time.

The operation key has the number of this process's last batch that happened.  It is
written in the same transaction, and it is there before the first, so its absence says
that nobody can know, and never that nothing happened.  No clock is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.caller import DEADLINE, Caller, Refused, Unanswered, persist
from pexservice.stores.etcd.courtesy import Courtesy
from pexservice.stores.etcd.history import history
from pexservice.stores.etcd.messages import Operation, Refusal
from pexservice.stores.etcd.opening import begin_operations, explain, open_cursor
from pexservice.stores.etcd.records import Cursor, Keys, Message
from pexservice.stores.etcd.trimming import trim
from pexservice.stores.etcd.watch import Stream, Watch
from pexservice.stores.interface import (
    KEPT_KEYS,
    Batch,
    Conflict,
    ISharedStore,
    NotTaken,
    OutcomeUnknown,
    Remembered,
    Row,
)

T = TypeVar("T")

#: How many revisions too many there may be in the journal, or idempotency keys,
#: before they are trimmed.
SLACK = 128


@implementer(ISharedStore)
class EtcdStore:
    """
    @ivar name: of the cluster, for who reads it.
    """

    _log = Logger()

    def __init__(
        self,
        caller: Caller,
        prefix: str,
        *,
        name: str = "etcd",
        journal: int = 100_000,
        kept_keys: int = KEPT_KEYS,
        stream: Stream | None = None,
        prepare: Callable[[], Coroutine[Any, Any, None]] | None = None,
        close: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """
        @param journal: how many transitions the history keeps, 1 or more.
        @param stream: has a watch answered; without, it is not told what others did.
        @param prepare: called first; looks at who answers.
        @param close: called last.
        """
        self.name = name
        self._caller = caller
        self._keys = Keys(prefix.encode())
        self._kept_transitions = journal
        self._kept_keys = kept_keys
        self._courtesy = Courtesy()
        self._stream = stream
        self._watching: Watch | None = None
        self._prepare = prepare
        self._close_caller = close
        self._base_: Cursor | None = None
        self._operation: Operation | None = None
        self._trimming: Deferred[None] = succeed(None)

    @property
    def _base(self) -> Cursor:
        """
        The cursor when it was last heard of.
        """
        assert self._base_ is not None, "the store is not open"  # noqa: S101 a bug
        return self._base_

    def open(self) -> Deferred[tuple[int, int]]:
        """
        See L{IStore.open}.
        """
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> tuple[int, int]:
        if self._prepare is not None:
            await self._prepare()
        self._base_ = await open_cursor(self._caller, self._keys, self.name)
        try:
            self._operation = await begin_operations(self._caller, self._keys)
        except (Refused, Unanswered) as error:
            raise explain(self.name, error) from error
        return self._base.revision, self._base.position

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        See L{ISharedStore.commit}.
        """
        return Deferred.fromCoroutine(self._commit(batch))

    async def _commit(self, batch: Batch) -> None:
        longest = self._courtesy.longest()
        if longest:
            await self._caller.rest(longest)
        operation = await self._next_operation()
        base = self._base
        if (base.revision + 1, base.position) != (
            batch.first_revision,
            batch.start_position,
        ):
            # Heard of since the batch began.
            raise Conflict(base.revision, base.position, {})
        revision = batch.revision
        trims = revision // SLACK != base.revision // SLACK
        message = messages.transaction(
            self._keys,
            base,
            batch,
            operation,
            max(0, revision - self._kept_transitions) if trims else None,
        )
        began = self._caller.seconds()
        try:
            await self._decide(message, batch, base, operation)
        except Conflict:
            self._courtesy.lost(self._caller.seconds() - began)
            raise
        self._courtesy.won(self._caller.seconds() - began)
        ordinal = base.keys + len(batch.keys)
        if ordinal // SLACK != base.keys // SLACK:
            self._trim(ordinal - self._kept_keys)

    async def _next_operation(self) -> Operation:
        if self._operation is None:
            try:
                self._operation = await begin_operations(self._caller, self._keys)
            except (Refused, Unanswered) as error:
                raise NotTaken("etcd does not answer") from error
        # Also when it was not known what became of the last one: its number is used up.
        self._operation = self._operation.following()
        return self._operation

    async def _decide(
        self, message: Message, batch: Batch, base: Cursor, operation: Operation
    ) -> None:
        """
        Send C{message} until it is known what became of it.

        @raise Conflict: it never happened.
        @raise NotTaken: likewise, for another reason.
        @raise OutcomeUnknown: it is not known.
        """
        # Copies of the message that may still be under way.
        loose, end, attempt = False, self._caller.seconds() + DEADLINE, 0
        while True:
            try:
                answer = await self._caller.call("kv/txn", message)
            except Refused as error:
                if not loose:
                    raise NotTaken(f"etcd refuses: {error}") from error
                problem: Exception = error
            except Unanswered as error:
                loose = loose or error.sent
                problem = error
            else:
                break
            if self._caller.seconds() >= end:
                kind = OutcomeUnknown if loose else NotTaken
                raise kind("etcd does not answer") from problem
            await self._caller.pause(attempt)
            attempt += 1
        if answer.get("succeeded"):
            self._heard(
                Cursor(
                    int(answer["header"]["revision"]),
                    batch.revision,
                    batch.position,
                    base.keys + len(batch.keys),
                )
            )
            return
        refusal = messages.read_refusal(answer, [name for name, _ in batch.keys])
        self._judge(refusal, base, operation, loose=loose)

    def _judge(
        self, refusal: Refusal, base: Cursor, operation: Operation, *, loose: bool
    ) -> None:
        """
        The last copy of a transaction did not happen.  Did another one?

        @param loose: there are others.
        """
        cursor = refusal.cursor
        if cursor is None:
            raise records.BadRecord(f"{self.name} has lost the cursor")
        # Also when it is older than what was heard: whoever restored etcd meant it.
        self._base_ = cursor
        if refusal.operation == operation.number:
            return
        if refusal.operation is None:
            # The lease has ended, so no copy can happen any more; but one may have.
            self._operation = None
        moved = cursor.modified != base.modified
        if loose and (refusal.operation is None if moved else refusal.used):
            # It cannot be seen any more whether one happened; or one may still, if
            # the used keys are forgotten before it comes.
            raise OutcomeUnknown("etcd does not tell what became of a batch")
        raise Conflict(cursor.revision, cursor.position, refusal.used)

    def _heard(self, cursor: Cursor) -> None:
        # Answers may overtake each other.
        if self._base_ is None or cursor.modified > self._base_.modified:
            self._base_ = cursor

    def watch(self, heard: Callable[[int, int], None]) -> None:
        """
        See L{ISharedStore.watch}.
        """

        def hear(cursor: Cursor) -> None:
            self._heard(cursor)
            heard(self._base.revision, self._base.position)

        if self._stream is not None:
            self._watching = Watch(self._stream, self._caller.pause, self._keys, hear)

    def _trim(self, forgotten: int) -> None:
        """
        Forget idempotency keys in the background.
        """
        if not self._trimming.called:
            return
        self._trimming = Deferred.fromCoroutine(
            trim(self._caller, self._keys, forgotten)
        ).addErrback(
            # The next one forgets what this one did not.
            lambda failure: self._log.warn(
                "{name}: idempotency keys are not trimmed: {reason}",
                name=self.name,
                reason=failure.getErrorMessage(),
            )
        )

    def trimmed(self) -> Deferred[None]:
        """
        @return: fires when nothing is being trimmed.
        """
        done: Deferred[None] = Deferred()

        self._trimming.addCallback(lambda _: done.callback(None))
        return done

    def read(self) -> Deferred[tuple[int, int]]:
        """
        See L{ISharedStore.read}.
        """
        return Deferred.fromCoroutine(self._read())

    async def _read(self) -> tuple[int, int]:
        found = messages.pairs(
            await self._ask("kv/range", messages.get(self._keys.cursor)),
        )
        if not found:
            raise NotTaken("etcd has lost the cursor")
        cursor = records.read_cursor(found[0])
        self._heard(cursor)
        return cursor.revision, cursor.position

    async def _ask(self, path: str, message: Message) -> Message:
        """
        What changes nothing.
        """
        try:
            return await persist(self._caller, lambda: self._caller.call(path, message))
        except Refused as error:
            raise NotTaken(f"etcd refuses: {error}") from error
        except Unanswered as error:
            raise NotTaken("etcd does not answer") from error

    def recall(self, key: bytes) -> Deferred[Remembered | None]:
        """
        See L{IStore.recall}.
        """
        return Deferred.fromCoroutine(self._recall(key))

    async def _recall(self, key: bytes) -> Remembered | None:
        found = messages.pairs(
            await self._ask("kv/range", messages.get(self._keys.used(key)))
        )
        return records.read_remembered(found[0]) if found else None

    def history(self, before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        See L{IStore.history}.
        """
        return Deferred.fromCoroutine(
            history(
                lambda message: self._ask("kv/txn", message),
                self._keys,
                before,
                limit,
                self._kept_transitions,
            )
        )

    def close(self) -> Deferred[None]:
        """
        See L{IStore.close}.
        """
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.stop()
        await self.trimmed()
        operation, self._operation = self._operation, None
        if operation is not None:
            try:
                await self._caller.call("lease/revoke", {"ID": operation.lease})
            except (Refused, Unanswered):
                # It ends by itself.
                self._log.debug("the lease of the operation key was left")
        if self._close_caller is not None:
            await self._close_caller()
