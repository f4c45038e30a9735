"""
The interfaces of a store, and the objects that its methods take and return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.errors import Refusal
from pexservice.stores.remembered_keys import RememberedKeys


class HistoryEntry(NamedTuple):
    """
    One transition of the history, with the state that it led to.

    @ivar time_ns: when its batch was committed, in nanoseconds since the epoch.
    """

    revision: int
    position: int
    transition: Transition
    time_ns: int


@frozen
class Batch:
    """
    Consecutive transitions that are stored together, and the idempotency keys of the steps.

    @ivar before: the cursor before the first transition.
    @ivar transitions: the codes of the transitions, one byte each; never empty.
    @ivar after: the cursor after the last transition.
    @ivar time_ns: nanoseconds since the epoch.
    @ivar keys: for each idempotency key of this batch, oldest first, what its step did,
        packed by C{pexservice.stores.remembered_keys.pack_use}.
    """

    before: Cursor
    transitions: bytes
    after: Cursor
    time_ns: int
    keys: Mapping[bytes, bytes] = Factory(dict)


class IStore(Interface):
    """
    A store of one cursor, which one committer uses.
    """

    def open() -> Deferred[Cursor]:
        """
        Open the store, and create it if there is none.  A failed call may be repeated.

        @return: fires with the cursor: revision 0 and position 0 in a new store.
        @raise StoreUnavailable: a later call may succeed.
        @raise StoreDamaged: no later call succeeds.
        @raise StoreError: or another of its subclasses: the service cannot use the store.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it.

        The caller waits until a commit has ended before it begins the next one.

        @return: fires when the batch is stored.
        @raise Refusal: the batch is not stored.  The store remains usable.
        @raise StoreError: the batch is not stored.  The store can only be closed.
            L{StoreDamaged} is such an error.
        @raise OutcomeUnknown: it is unknown whether the batch is stored.  An exclusive
            store can only be closed; a shared store remains usable.
        """

    def history(before: int, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return at most C{limit} durable transitions, newest first.

        @param before: return only revisions below this one.
        @raise Refusal: the store cannot be read now.
        @raise StoreDamaged: the store can only be closed.
        """

    def close() -> Deferred[None]:
        """
        Close the store, even if it was never opened.
        """


class IExclusiveStore(IStore):
    """
    A store on a disk of this machine, which only this process writes to.
    """

    remembered_keys: RememberedKeys = Attribute(
        "The keys that the store had when it was opened.  The committer adds newer keys."
    )

    def open(on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Lock the store, and open it; see L{IStore.open}.

        If another process has locked the store, this process becomes a standby: it calls
        C{on_standby}, and waits until the lock is free.

        @param on_standby: C{None} if this process must not wait.
        @raise StoreBusy: another process has locked the store, and C{on_standby} is
            C{None}.
        """

    def commit_refusal() -> Refusal | None:
        """
        Return why commits are refused now: the disk is full, or the store was moved.

        C{None} means that commits are accepted.  Each call makes a few system calls.
        """

    def space() -> Space | None:
        """
        Return the disk space of the store; C{None} if it is not open.

        It is for metrics, like L{oldest_reader}.  Neither method blocks.
        """

    def oldest_reader() -> OldStateReader | None:
        """
        Return the other process that reads the oldest state; C{None} if no other reads any.
        """


class Space(NamedTuple):
    """
    The disk space of a store, in bytes.

    @ivar used: the part of the store's file up to the last byte that was ever used.
    @ivar limit: the size that the file may grow to.
    @ivar free: the free space of the file system that this process may use.
    @ivar size: the size of the file system.
    """

    used: int
    limit: int
    free: int
    size: int


class OldStateReader(NamedTuple):
    """
    A process that reads an old state of the store.

    Until it ends the read, the pages of this state cannot be reused, and the file grows.

    @ivar commits_behind: how many commits were made since that state.
    """

    pid: int
    commits_behind: int
