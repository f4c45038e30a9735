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
from pexservice.stores.remembered_keys import KeyUse, RememberedKeys


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
    The content of one transaction: consecutive transitions, and the keys used for them.

    @ivar before: the cursor before the first transition.
    @ivar transitions: the codes of the transitions, one byte each; never empty.
    @ivar after: the cursor after the last transition.
    @ivar time_ns: nanoseconds since the epoch.
    @ivar keys: a mapping from each idempotency key of this batch, oldest first, to its use,
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
        @raise StoreError: or one of its subclasses.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it.

        A commit has one of three outcomes: the batch is stored, it is not stored, or this
        is unknown.  The caller waits for each commit before it begins the next one.

        @raise Refusal: the batch is not stored.  The store remains usable.
        @raise StoreError: the batch is not stored.  The store can only be closed.
            L{StoreDamaged} is such an error.
        @raise OutcomeUnknown: it is unknown whether the batch is stored.  An exclusive
            store can only be closed.
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
        Close the store, which may not have been opened.
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

        @param on_standby: called before this process waits, as a standby, for a store that
            another process has locked.  If it is C{None}, L{StoreBusy} is raised instead.
        """

    def commit_refusal() -> Refusal | None:
        """
        Return why commits are refused now: the disk is full, or the store was moved.

        C{None} means that commits are accepted.  Each call makes a few system calls.
        """

    def space() -> Space | None:
        """
        Return the disk space of the store; C{None} if it is not open.

        Metrics use this method and L{oldest_reader}.  Neither blocks.
        """

    def oldest_reader() -> OldStateReader | None:
        """
        Return the process that reads the oldest state; C{None} if no process reads any.
        """


class Space(NamedTuple):
    """
    The disk space of a store, in bytes.

    @ivar used: the end of the last part of the store's file that was ever in use.
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
    A process that reads an old state of the store, whose pages cannot be reused meanwhile.

    @ivar commits_behind: how many commits were made after that state.
    """

    pid: int
    commits_behind: int


class ISharedStore(IStore):
    """
    A store that several nodes write to.  It remains usable after a failure.
    """

    max_batch_keys: int = Attribute("How many idempotency keys one batch may have.")

    # For metrics.

    went_back_count: int = Attribute(
        "How often the cursor was found at an earlier revision than before."
    )

    turns: int = Attribute("How many turns this node has had.")

    turn_seconds: float = Attribute("How many seconds this node has waited for its turns.")

    certificate_expires: float | None = Attribute(
        "When this node's client certificate expires, in seconds since the epoch, if any."
    )

    def turn() -> Deferred[Cursor]:
        """
        Wait until it is this node's turn to commit.  The caller should commit next.

        Turns make conflicts rare, and give each node its share.  A turn is no lock, and a
        commit out of turn is safe.  So this node waits for a limited time only, and then
        commits out of turn.

        @return: fires with the newest known cursor.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it; see L{IStore.commit}.

        @raise Conflict: the cursor is not where the batch begins, because another node
            moved it, or a key of the batch was used before.  The batch is not stored.
        @raise OutcomeUnknown: the batch may be stored, now or later.  It is stored only if
            the cursor is where the batch begins.  So as soon as another batch is stored,
            this one is certainly not stored later, and the caller need not wait.
        """

    def read() -> Deferred[Cursor]:
        """
        Read the cursor.

        @return: fires with the cursor at some moment between this call and the firing.
        @raise Refusal: the cursor cannot be read.
        """

    def recall(key: bytes) -> Deferred[KeyUse | None]:
        """
        Return what the first use of C{key} did.

        @return: fires with C{None} if C{key} is not among the last L{KEPT_KEYS} keys.
        @raise Refusal: the store does not answer.
        """

    def watch(
        cursor_moved: Callable[[Cursor], None],
        cursor_went_back: Callable[[Cursor], None],
    ) -> None:
        """
        Call C{cursor_moved} with the newest cursor when any node has moved the cursor.

        Calls may come late, and may be missing.

        @param cursor_went_back: called when the cursor is at an earlier revision than
            before, because an operator restored or emptied the store.
        """

    def probe() -> Deferred[Refusal | None]:
        """
        Ask the store whether it would accept a batch now, without changing anything.

        @return: fires with the refusal of a batch, or with C{None}.
        @raise Refusal: the store does not answer.
        """

    def advance(revision: int) -> Deferred[Cursor]:
        """
        Give the cursor a higher revision at the same position.  All nodes must be stopped.

        This is necessary after a restore.  Without it, the store would use revisions again
        that clients have already seen.

        @raise StoreError: there is no cursor, or its revision is C{revision} or higher.
        """
