"""
A disk that survives the processes.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pexservice.core.cursor import Cursor
from pexservice.stores.errors import OutcomeUnknown
from pexservice.stores.interface import Batch, HistoryEntry, IExclusiveStore
from tests.support.fakes import MemoryStore


class DiskError(OutcomeUnknown):
    """
    The error of a commit that may or may not have reached the disk.
    """


@implementer(IExclusiveStore)
@define(eq=False)
class CrashableStore(MemoryStore):
    """
    The store of one process on the common disk.

    @ivar disk: survives the process.
    @ivar opened: fires when the process has the lock.
    @ivar is_written: the batch in progress is on the disk.
    """

    disk: MemoryStore = field(kw_only=True)
    held: bool = True
    opened: Deferred[Cursor] = field(factory=Deferred)
    is_written: bool = False
    is_broken: bool = False

    def open(self, _: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Return a Deferred that fires when the process has the lock; see L{IStore.open}.
        """
        return self.opened

    def give_lock(self) -> None:
        """
        Give the process the lock, and let it read the disk.
        """
        cursor = self.disk.open()
        self.remembered_keys = self.disk.remembered_keys
        cursor.chainDeferred(self.opened)

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Begin a commit; there must be none after a failed commit or after the end.
        """
        assert not self.is_broken, "a commit after one that failed"
        assert not self.closed, "a commit after the end"
        self.is_written = False
        return super().commit(batch)

    def write(self) -> None:
        """
        Put the batch in progress on the disk.
        """
        assert self.under_way is not None
        if not self.is_written:
            self.is_written = True
            self.disk._take(self.under_way)

    def _take(self, batch: Batch) -> None:
        if not self.is_written:
            self.disk._take(batch)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return rows of the disk's history.
        """
        return self.disk.history(before, limit)
