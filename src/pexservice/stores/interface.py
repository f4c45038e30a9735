"""
What a store promises to the committer, whatever it stands on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import ClassVar, NamedTuple

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import Attribute, Interface

from pexservice.core.cursor import Transition
from pexservice.process.exit_status import Status

#: How many idempotency keys are kept; the oldest go first.
KEPT_KEYS = 100_000

#: The longest idempotency key, in ASCII characters.
LONGEST_KEY = 255


class StoreUnusable(Exception):
    """
    The store cannot be opened.  The message names it and says what to do.

    @cvar exit_status: of a process that ends because of it.
    """

    exit_status: ClassVar[Status] = Status.CANNOT_START


class StoreBusy(StoreUnusable):
    """
    Another process owns the store.
    """


class StoreDamaged(StoreUnusable):
    """
    What is there contradicts itself.  Nobody repairs it by starting again, and
    nothing resets it.
    """

    exit_status = Status.DAMAGED


class StoreIncompatible(StoreUnusable):
    """
    The store may be whole, but it has a format that this program does not read.  The
    message names the version that was found and the one that is wanted.
    """

    exit_status = Status.MISCONFIGURED


class NotTaken(Exception):
    """
    The store surely did not take the batch: it never happened.
    """


class OutcomeUnknown(Exception):
    """
    The store failed while the batch was under way.  Only opening it again tells
    whether the batch happened.
    """


class Conflict(Exception):
    """
    The batch never happened, and never will: the cursor is not where it began, or a
    key of it had been used.  Only a store that others write to says so.

    @ivar revision: of the cursor, as far as the store knows.
    @ivar position: likewise.
    @ivar used: the batch's idempotency keys that had been used, with what for.
    """

    def __init__(
        self, revision: int, position: int, used: Mapping[bytes, Remembered]
    ) -> None:
        super().__init__(f"the cursor is at revision {revision}")
        self.revision = revision
        self.position = position
        self.used = used


class Remembered(NamedTuple):
    """
    What the first use of an idempotency key did.
    """

    transition: Transition
    revision: int
    position: int


class Row(NamedTuple):
    """
    One transition of the history: the state it led to, and when.

    @ivar time_ns: nanoseconds since the epoch, when its batch was committed.
    """

    revision: int
    position: int
    transition: Transition
    time_ns: int


@frozen
class Batch:
    """
    What one transaction takes: consecutive transitions and where they lead.

    @ivar first_revision: the revision of the first transition.
    @ivar start_position: the position before the first transition.
    @ivar transitions: one byte each, L{Transition}'s code; never empty.
    @ivar position: the position after the last transition.
    @ivar time_ns: nanoseconds since the epoch.
    @ivar keys: the idempotency keys used in this batch, oldest first.
    """

    first_revision: int
    start_position: int
    transitions: bytes
    position: int
    time_ns: int
    keys: tuple[tuple[bytes, Remembered], ...] = ()

    @property
    def revision(self) -> int:
        """
        The revision after the last transition.
        """
        return self.first_revision + len(self.transitions) - 1


class Space(NamedTuple):
    """
    How much room there is for a store.  Bytes.

    @ivar used: of the store's file, pages that it has freed for itself included.
    @ivar limit: what the file may grow to.
    @ivar free: on its file system, for us.
    @ivar size: of the file system.
    """

    used: int
    limit: int
    free: int
    size: int


class Snapshot(NamedTuple):
    """
    A state of the store that a process reads, so that it cannot be written over.

    @ivar pid: that process.
    @ivar commits: how many commits there have been since.
    """

    pid: int
    commits: int


class IOnDisk(Interface):
    """
    Of a store that takes room on a disk of this machine.
    """

    def shortage() -> NotTaken | None:
        """
        Return why no batch would be taken now, if the disk is full.  Does not block.
        """

    def oldest_snapshot() -> Snapshot | None:
        """
        Return the oldest state that a process reads, if one does.  Does not block.
        """

    def space() -> Space | None:
        """
        Does not block.

        @return: C{None} while the store is not open.
        """


class IStore(Interface):
    """
    One cursor, kept.  Opened once, used by one committer, closed once.
    """

    def open() -> Deferred[tuple[int, int]]:
        """
        Take the store, make it if there is none, and read it.

        @return: fires with (revision, position); (0, 0) for a new store only.
        @raise StoreUnusable: or one of its kinds.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Take the whole batch, durably, or nothing of it.  Never called while an
        earlier commit is under way.

        @raise NotTaken: it surely did not happen; the store goes on.
        @raise StoreDamaged: it surely did not happen; the store must not be used any
            more.
        @raise Exception: any other means that the outcome is unknown; the store
            must not be used any more but to close it.
        """

    def recall(key: bytes) -> Deferred[Remembered | None]:
        """
        Return what the first use of C{key} did, among the last L{KEPT_KEYS} keys.

        @raise NotTaken: a commit has failed, so nobody can say any more.
        @raise StoreDamaged: the store must not be used any more.
        """

    def history(before: int | None, limit: int) -> Deferred[list[Row]]:
        """
        At most C{limit} durable transitions, newest first: those with a revision
        below C{before}, or the latest.

        @raise NotTaken: as L{recall}, and C{StoreDamaged} too.
        """

    def close() -> Deferred[None]:
        """
        Let go of the store.  Harmless when it never opened.
        """


class IOwnStore(IStore):
    """
    A store that nobody but this process writes to.
    """

    def look_up(key: bytes) -> Remembered | None:
        """
        Return what L{recall} fires with, at once.  It knows of every batch whose commit
        has ended, and may know of the one that is under way.
        """


class ISharedStore(IStore):
    """
    A store whose cursor others move too.  It goes on after a failure.
    """

    most_keys: int = Attribute("How many idempotency keys one batch may have.")

    def turn() -> Deferred[tuple[int, int]]:
        """
        Wait for a turn to commit, so that others get theirs.  One commit should follow.

        @return: fires with (revision, position) of the cursor when it was last heard
            of.  Always fires, and soon: a turn is a courtesy, not a lock.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        See L{IStore.commit}.

        @raise Conflict: others moved the cursor; it surely did not happen.
        @raise OutcomeUnknown: it may have happened, or may yet.  It can only happen
            before any later batch does, so the next one may be tried at once.
        """

    def watch(heard: Callable[[int, int], None]) -> None:
        """
        Call C{heard} with (revision, position) when the cursor is known to have moved,
        whoever moved it.  That may be late, or never.
        """

    def read() -> Deferred[tuple[int, int]]:
        """
        The cursor, as it is at a moment between this call and its answer.

        @return: fires with (revision, position).
        @raise NotTaken: nobody can say.
        """


class Verification(Enum):
    """
    How a store that is there is read before it is used.
    """

    #: Whole, in a process of its own, which damaged pages may end.
    IN_CHILD = auto()
    #: Whole, in this process, which is such a one.
    INLINE = auto()
    #: Only what the next transition follows; the rest was read a moment ago.
    QUICK = auto()


class IStoreReactor(IReactorTime, IReactorFromThreads):
    """
    What stores need of a reactor.
    """


@frozen(kw_only=True)
class StoreOptions:
    """
    What a store is made from besides its URL.  Each takes what concerns it.

    @ivar journal: how many transitions the history keeps, 1 or more.
    @ivar progress: called with how much of the store was verified, in percent.
    @ivar standing_by: called when another process owns the store, and this one waits
        for it.  Without it, a store in use is refused.
    """

    reactor: IStoreReactor
    journal: int
    verification: Verification = Verification.IN_CHILD
    progress: Callable[[int], object] | None = None
    standing_by: Callable[[], object] | None = None


class IStoreFactory(Interface):
    """
    Makes the stores of one URL scheme.
    """

    shared: bool = Attribute("Whether the stores provide L{ISharedStore}.")

    def check(url: str) -> None:
        """
        Check that C{url} can name a store, without touching it.

        @raise ValueError: it cannot.  The message says why, without C{url}.
        """

    def make(url: str, options: StoreOptions) -> IStore:
        """
        Make the store, which is not open yet.

        @raise ValueError: as L{check}.
        @raise StoreUnusable: a file that C{url} names cannot be used.
        """
