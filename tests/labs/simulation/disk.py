"""
A disk that outlives the processes.
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


class DiskBroke(OutcomeUnknown):
    """
    The error of a commit that may have reached the disk or not.
    """


@implementer(IExclusiveStore)
@define(eq=False)
class CrashableStore(MemoryStore):
    """
    One process's way to the disk.

    @ivar disk: what outlives the process.
    @ivar opened: fires when the process has the lock.
    @ivar written: the batch under way is on the disk.
    """

    disk: MemoryStore = field(kw_only=True)
    held: bool = True
    opened: Deferred[Cursor] = field(factory=Deferred)
    written: bool = False
    broke: bool = False

    def open(self, _: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Return a deferred that fires when the process has the lock; see L{IStore.open}.
        """
        return self.opened

    def give_lock(self) -> None:
        """
        Give the process the lock, and have it read the disk.
        """
        cursor = self.disk.open()
        self.remembered_keys = self.disk.remembered_keys
        cursor.chainDeferred(self.opened)

    def commit(self, batch: Batch) -> Deferred[None]:
        """
        Begin a commit, which must not follow a failed one or the end.
        """
        assert not self.broke, "a commit after one that failed"
        assert not self.closed, "a commit after the end"
        self.written = False
        return super().commit(batch)

    def write(self) -> None:
        """
        Put the batch under way on the disk.
        """
        assert self.under_way is not None
        if not self.written:
            self.written = True
            self.disk._take(self.under_way)

    def _take(self, batch: Batch) -> None:
        if not self.written:
            self.disk._take(batch)

    def history(self, before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return rows of the disk's history.
        """
        return self.disk.history(before, limit)
