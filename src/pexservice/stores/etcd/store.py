"""
The store of many nodes, in etcd.

Each batch is a compare-and-swap on the cursor's key: a transaction that etcd executes only
if no other node has moved the cursor meanwhile.
"""

from __future__ import annotations

import secrets
from base64 import b64decode
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from zope.interface import implementer

from pexservice.core.cursor import INITIAL, Cursor
from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import (
    OutcomeUnknown,
    Refusal,
    StoreDamaged,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from pexservice.stores.etcd import messages, records
from pexservice.stores.etcd.decision import BatchOutcome, BatchTransaction
from pexservice.stores.etcd.gateway import (
    RESOURCE_EXHAUSTED,
    CallFailed,
    CallRefused,
    Gateway,
    Watch,
    call_until_answered,
    retry_until_answered,
)
from pexservice.stores.etcd.journal import read_history, remove_oldest_keys
from pexservice.stores.etcd.messages import LastBatchKey
from pexservice.stores.etcd.records import CursorRecord, ForeignRecord, Layout
from pexservice.stores.etcd.turn_queue import TurnQueue
from pexservice.stores.interface import Batch, HistoryEntry
from pexservice.stores.remembered_keys import KEPT_KEYS, KeyUse
from pexservice.stores.shared_interface import Conflict, ISharedStore

T = TypeVar("T")
P = ParamSpec("P")

#: Once in this many revisions, a batch's transaction also removes the oldest journal rows.
#: Once in this many idempotency keys, the oldest of them are removed.  This happens in the
#: background, because these keys must be read before they can be removed.
TRIM_INTERVAL = 128

#: The highest revision that an operator may give the cursor.  Some JSON parsers do not read
#: a larger integer exactly.
MAX_ADVANCED_REVISION = 2**53 - 1

#: How long etcd keeps a last-batch key.  A process that runs longer makes a new key.
LEASE_SECONDS = 24 * 3600


def as_deferred(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Deferred[T]]:
    """
    Make the coroutine function C{function} return a C{Deferred}.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return call


@implementer(ISharedStore)
class EtcdStore:
    """
    A store in an etcd cluster, which other nodes write to as well.

    @ivar name: the name of the cluster, for messages.
    """

    _log = Logger()

    max_batch_keys = messages.MAX_BATCH_KEYS

    def __init__(
        self,
        gateway: Gateway,
        prefix: str,
        *,
        name: str = "etcd",
        journal: int = 100_000,
        kept_keys: int = KEPT_KEYS,
        create: bool = True,
        claim: StoreClaim | None = None,
        node: str | None = None,
    ) -> None:
        """
        Make the store whose keys begin with C{prefix}, without opening it.

        @param journal: how many transitions the history keeps, 1 or more, if the cursor's
            record does not say it.
        @param create: whether to create a cursor if there is none.
        @param claim: the claim of the service that this worker belongs to.  If the service
            has claimed a store, no cursor is created.
        @param node: the name of this node in the queue; by default a random name.
        """
        self.name = name
        self.went_back_count = self.turn_count = 0
        self.turn_wait_seconds = 0.0
        self.certificate_expires = gateway.certificate_expires
        self._create = create
        self._claim = claim
        self._gateway = gateway
        self._call = partial(call_until_answered, gateway)
        self._prefix = prefix
        self._layout = Layout(prefix.encode())
        self._journal = journal
        self._kept_keys = kept_keys
        self._queue = TurnQueue(node or secrets.token_hex(8))
        # Fires when this node gets a record of the cursor; None unless turn() waits for it.
        self._cursor_learned: Deferred[None] | None = None
        self._watching: Watch | None = None
        # The newest record that this node knows.  At first, it is older than all records.
        self._known_record = CursorRecord(0, INITIAL.cursor, 0)
        self._cursor_changed: Callable[[Cursor], None] = lambda _: None
        self._last_batch_key: LastBatchKey | None = None
        self._removing_keys: Deferred[None] = succeed(None)

    @as_deferred
    async def open(self) -> Cursor:
        await self._gateway.survey()
        is_claimed = self._claim is not None and self._claim.identity() is not None
        record = await self._find_cursor()
        if record is None:
            if is_claimed or not self._create:
                raise StoreError(
                    f"{self.name} has no cursor with the prefix {self._prefix}; restore"
                    " etcd from a snapshot, or create a cursor with pexctl create"
                )
            record = await self._create_cursor()
        self._known_record = record
        if self._claim is not None:
            self._claim.take(self._prefix)
        if record.journal not in (None, self._journal):
            self._log.warn(
                "--journal {ours} is not used: all nodes keep the {kept} transitions that"
                " the cursor's record says",
                ours=self._journal,
                kept=record.journal,
            )
        # If etcd has no space, or if the user may only read, this call fails, but reads are
        # still possible.  The first batch tries again to make the key, and then fails with
        # the reason.
        with suppress(CallFailed):
            self._last_batch_key = await self._create_last_batch_key()
        return record.cursor

    async def _create_cursor(self) -> CursorRecord:
        """
        Create the cursor, unless another node has created it meanwhile, and read it.

        @raise StoreError: or one of its subclasses.
        """
        try:
            answer = await self._call(
                "kv/txn", messages.create(self._layout, self._journal)
            )
            record = messages.only_cursor(self._layout, *messages.ranges(answer))
        except Refusal as error:
            raise self._unusable(error) from error
        self._log.warn(
            "{name} had no cursor with the prefix {prefix}: a new one was created at"
            " revision 0",
            name=self.name,
            prefix=self._prefix,
        )
        return record

    async def _find_cursor(self) -> CursorRecord | None:
        """
        Read the cursor; return C{None} if etcd has no keys of a store.

        @raise StoreError: or one of its subclasses.
        """
        try:
            answer = await self._call("kv/txn", messages.find_cursor(self._layout))
            cursor, *others = messages.ranges(answer)
            if cursor:
                return records.decode_cursor(cursor[0])
        except Refusal as error:
            raise self._unusable(error) from error
        example = next((b64decode(pairs[0]["key"]) for pairs in others if pairs), None)
        if example is None:
            return None
        raise StoreDamaged(
            f"{self.name} has no cursor, but other keys with the prefix {self._prefix},"
            f" such as {example!r}; if another service owns them, choose another prefix;"
            " otherwise restore etcd from a snapshot, or delete them and run pexctl create"
        )

    def _unusable(self, error: Refusal) -> StoreError:
        """
        Return the exception for a store that cannot be used because of C{error}.
        """
        if isinstance(error, ForeignRecord):
            return StoreDamaged(f"{self.name}, {self._layout.cursor.decode()}: {error}")
        if isinstance(error, CallRefused) and error.code != RESOURCE_EXHAUSTED:
            return StoreMisconfigured(f"{self.name}: {error}")
        return StoreUnavailable(f"{self.name}: {error}")

    async def _create_last_batch_key(self) -> LastBatchKey:
        """
        Make a new last-batch key.

        An attempt without an answer may leave another key in etcd, until its lease ends.

        @raise CallFailed: etcd refuses the key, or does not answer.
        """
        call = self._gateway.call

        async def attempt() -> LastBatchKey:
            granted = await call("lease/grant", {"TTL": str(LEASE_SECONDS)})
            name = self._layout.last_batch(secrets.token_hex(8))
            key = LastBatchKey(name, 0, granted["ID"])
            await call("kv/txn", messages.create_last_batch_key(key))
            return key

        return await retry_until_answered(self._gateway, attempt)

    @property
    def _kept_transitions(self) -> int:
        return self._known_record.journal or self._journal

    @as_deferred
    async def turn(self) -> Cursor:
        seconds = self._gateway.clock.seconds
        began = seconds()
        self._queue.request_turn(began)
        while (delay := self._queue.delay(seconds())) > 0:
            self._cursor_learned = Deferred()
            self._cursor_learned.addTimeout(delay, self._gateway.clock)
            with suppress(DeferredTimeout):
                await self._cursor_learned
            self._cursor_learned = None
        self.turn_count += 1
        self.turn_wait_seconds += seconds() - began
        return self._known_record.cursor

    @as_deferred
    async def commit(self, batch: Batch) -> None:
        last_batch_key = await self._number_next_batch()
        base, queue, seconds = self._known_record, self._queue, self._gateway.clock.seconds
        if base.cursor != batch.before:
            # The watch has reported that another node has moved the cursor.
            raise Conflict(base.cursor, {})
        if batch.after.position > records.MAX_POSITION:
            # No node could read a cursor with a higher position.
            raise Refusal(f"position {records.MAX_POSITION} is the highest; use /reset")
        revision = batch.after.revision
        trims = revision // TRIM_INTERVAL != base.cursor.revision // TRIM_INTERVAL
        message = messages.commit(
            self._layout,
            base,
            batch,
            last_batch_key,
            queue=queue,
            journal=self._kept_transitions,
            newest_expired=max(0, revision - self._kept_transitions) if trims else None,
        )
        began = seconds()
        transaction = BatchTransaction(
            self._gateway, self._layout, message, batch, base, last_batch_key
        )
        outcome, observation = await transaction.send()
        now = seconds()
        if observation.last_batch is None:
            self._last_batch_key = None
        stored = outcome is BatchOutcome.STORED
        queue.note_answer(
            now, now - began, observation.revision, observation.marks, stored=stored
        )
        self._learn(observation.record, base)
        if outcome is BatchOutcome.UNKNOWN:
            raise OutcomeUnknown("etcd does not show whether a batch is stored")
        if not stored:
            raise Conflict(observation.record.cursor, observation.used)
        ordinal = base.key_count + len(batch.keys)
        if ordinal // TRIM_INTERVAL != base.key_count // TRIM_INTERVAL:
            self._remove_oldest_keys(ordinal - self._kept_keys)

    async def _number_next_batch(self) -> LastBatchKey:
        """
        Return the last-batch key, with the number of the next batch.
        """
        if self._last_batch_key is None:
            self._last_batch_key = await self._create_last_batch_key()
        # Each batch gets a new number, even if the outcome of the batch before is unknown.
        self._last_batch_key = evolve(
            self._last_batch_key, number=self._last_batch_key.number + 1
        )
        return self._last_batch_key

    def _learn(self, record: CursorRecord, known: CursorRecord | None = None) -> None:
        """
        Remember C{record} if it is newer than the known record, or if etcd was restored.

        This node may get an older record after a newer one, because the watch and several
        calls report records.  So an older record shows a restore only if it is the answer
        to a call, and if the known record is still the same as at the time of the call.

        @param known: the record that was known at the time of the call; C{None} if the
            watch has reported C{record}.
        """
        base = self._known_record
        newer = record.mod_revision > base.mod_revision
        # After a restore, etcd may have a higher revision than before.  Then the cursor's
        # lower revision shows the restore, because no batch lowers the cursor's revision.
        lower = record.cursor.revision < base.cursor.revision
        went_back = (known is base and record.went_back_from(base)) or (newer and lower)
        if went_back:
            self.went_back_count += 1
            self._log.critical(
                "{name}: the cursor went back from revision {old} to {new}: etcd was"
                " restored from a snapshot or emptied, and acknowledged steps are lost",
                name=self.name,
                old=base.cursor.revision,
                new=record.cursor.revision,
            )
        if went_back or newer:
            self._known_record = record
            self._cursor_changed(record.cursor)
        self._queue.note_commit(
            self._gateway.clock.seconds(), record.author, record.mod_revision
        )
        learned, self._cursor_learned = self._cursor_learned, None
        if learned is not None:
            learned.callback(None)

    def watch(self, cursor_changed: Callable[[Cursor], None]) -> None:
        self._cursor_changed = cursor_changed
        self._watching = Watch(self._gateway, self._layout.cursor, self._learn)

    def _remove_oldest_keys(self, newest_expired: int) -> None:
        """
        Remove the idempotency keys up to the ordinal C{newest_expired}, in the background.
        """
        if not self._removing_keys.called:
            return
        self._removing_keys = Deferred.fromCoroutine(
            remove_oldest_keys(self._gateway, self._layout, newest_expired)
        ).addErrback(
            # The next call removes the keys that this call did not remove.
            lambda failure: self._log.warn(
                "{name}: old idempotency keys stay for now: {reason}",
                name=self.name,
                reason=failure.getErrorMessage(),
            )
        )

    @as_deferred
    async def read(self) -> Cursor:
        known = self._known_record
        answer = await self._call("kv/range", messages.get(self._layout.cursor))
        record = messages.only_cursor(self._layout, messages.pairs(answer))
        if record.went_back_from(known):
            # Either etcd was restored, or a member of an old version has answered with an
            # old state.  A transaction that contains writes, as the probe does, always gets
            # the present state.
            known = self._known_record
            answer = await self._call("kv/txn", messages.probe(self._layout))
            record = messages.only_cursor(self._layout, *messages.ranges(answer))
        self._learn(record, known)
        return self._known_record.cursor

    @as_deferred
    async def probe(self) -> Refusal | None:
        try:
            await self._call("kv/txn", messages.probe(self._layout))
        except CallRefused as error:
            return error
        return None

    @as_deferred
    async def inspect(self) -> list[str]:
        """
        Ask etcd for its members and the cursor, and whether it would accept a batch.
        """
        report = await self._gateway.survey()
        record = await self._find_cursor()
        refusal = await self.probe()
        if refusal is not None:
            raise StoreUnavailable(f"{self.name}: {refusal}")
        return [
            *(f"{endpoint}: {words}" for endpoint, words in report.items()),
            f"no cursor with the prefix {self._prefix}"
            if record is None
            else "the cursor is at revision {}, position {}".format(*record.cursor),
        ]

    @as_deferred
    async def create(self) -> None:
        """
        Create the cursor.

        @raise StoreError: there is a cursor already.
        """
        await self._gateway.survey()
        if await self._find_cursor() is not None:
            raise StoreError(
                f"{self.name} has a cursor with the prefix {self._prefix} already"
            )
        await self._create_cursor()

    @as_deferred
    async def advance(self, revision: int) -> Cursor:
        record = await self._find_cursor()
        if record is None:
            raise StoreError(f"{self.name} has no cursor; create one with pexctl create")
        if revision > MAX_ADVANCED_REVISION:
            raise StoreError(
                f"revision {revision}: {MAX_ADVANCED_REVISION} is the highest that this"
                " command accepts"
            )
        if revision <= record.cursor.revision:
            raise StoreError(
                f"{self.name} is at revision {record.cursor.revision}; choose a higher one"
                f" than {revision}"
            )
        message = messages.advance(self._layout, record, revision, self._journal)
        try:
            answer = await self._gateway.call("kv/txn", message)
        except CallFailed as error:
            raise self._unusable(error) from error
        if not answer.get("succeeded"):
            raise StoreError(f"{self.name}: the cursor moved; stop all nodes first")
        return Cursor(revision, record.cursor.position)

    @as_deferred
    async def recall(self, key: bytes) -> KeyUse | None:
        answer = await self._call("kv/range", messages.get(self._layout.key_use(key)))
        pairs = messages.pairs(answer)
        return records.decode_key_use(pairs[0]) if pairs else None

    @as_deferred
    async def history(self, before: int, limit: int) -> list[HistoryEntry]:
        return await read_history(
            self._gateway, self._layout, before, limit, self._kept_transitions
        )

    @as_deferred
    async def close(self) -> None:
        if self._watching is not None:
            self._watching.stop()
        await self._removing_keys
        last_batch_key, self._last_batch_key = self._last_batch_key, None
        if last_batch_key is not None:
            mark = messages.get(self._layout.mark(self._queue.node))
            try:
                await self._gateway.call("lease/revoke", {"ID": last_batch_key.lease})
                await self._gateway.call("kv/deleterange", mark)
            except CallFailed:
                # Later, the lease removes the key, and another node removes the mark.
                self._log.debug("the last-batch key or the place in the queue was left")
        await self._gateway.close()
