"""
The promises of a store to the committer, whatever the store is built on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import Attribute, Interface

from pexservice.core.cursor import Transition
from pexservice.process.exit_status import Status
from pexservice.process.scoreboard import StoreClaim
from pexservice.stores.remembered_keys import KeyUse, RememberedKeys


class StoreUnusable(Exception):
    """
    The store cannot be opened.  The message names the store and says what to do.

    @cvar exit_status: the exit status of a process that ends because of this error.
    """

    exit_status: ClassVar[Status] = Status.CANNOT_START


class StoreBusy(StoreUnusable):
    """
    Another process owns the store.
    """


class StoreMissing(StoreUnusable):
    """
    There is no store, and this process must not create one.
    """


class StoreReaderKilled(StoreUnusable):
    """
    The process that read the store was killed; the kernel does so when memory is short.
    """

    exit_status = Status.STORE_FAILED


class StoreExists(StoreUnusable):
    """
    There is a store already, where a new one was to be created.
    """


class StoreDamaged(StoreUnusable):
    """
    The store contradicts itself; starting again does not repair it, and nothing resets it.
    """

    exit_status = Status.DAMAGED


class StoreIncompatible(StoreUnusable):
    """
    The store may be whole, but it has a format that this program does not read.

    The message names the version that was found and the one that is wanted.
    """

    exit_status = Status.MISCONFIGURED


class StoreUnavailable(StoreUnusable):
    """
    The store does not answer now, or has no space.  It may be opened later.
    """


class StoreMisconfigured(StoreUnusable):
    """
    The store refuses this program, or an option that concerns the store is wrong.
    """

    exit_status = Status.MISCONFIGURED


class Refusal(Exception):
    """
    A batch or a read is refused, for the reason in the message.

    A refused batch surely never happened.
    """


class OutcomeUnknown(Exception):
    """
    The store failed while the batch was under way.

    Only opening the store again tells whether the batch happened.
    """


class Conflict(Exception):
    """
    The batch never happened, and never will.

    The cursor is not where the batch began, or one of the batch's keys had been used.
    Only a store that other nodes write to raises this error.

    @ivar revision: the cursor's revision, as far as the store knows.
    @ivar position: the cursor's position, as far as the store knows.
    @ivar used: the batch's keys that had been used, each with what its first use did.
    """

    def __init__(self, revision: int, position: int, used: Mapping[bytes, KeyUse]) -> None:
        super().__init__(f"the cursor is at revision {revision}")
        self.revision = revision
        self.position = position
        self.used = used


class StoredState(NamedTuple):
    """
    The content of a store that was opened, as far as its committer keeps it in memory.
    """

    revision: int
    position: int
    remembered_keys: RememberedKeys


class HistoryEntry(NamedTuple):
    """
    One transition of the history: the state that it led to, and its time.

    @ivar time_ns: nanoseconds since the epoch, when its batch was committed.
    """

    revision: int
    position: int
    transition: Transition
    time_ns: int


@frozen
class Batch:
    """
    The content of one transaction: consecutive transitions and where they lead.

    @ivar first_revision: the revision of the first transition.
    @ivar start_position: the position before the first transition.
    @ivar transitions: one byte each, L{Transition}'s code; never empty.
    @ivar position: the position after the last transition.
    @ivar time_ns: nanoseconds since the epoch.
    @ivar keys: the idempotency keys used in this batch, oldest first, each with what its
        use did, as C{pexservice.stores.remembered_keys.pack_use} packs that.
    """

    first_revision: int
    start_position: int
    transitions: bytes
    position: int
    time_ns: int
    keys: Mapping[bytes, bytes] = Factory(dict)

    @property
    def revision(self) -> int:
        """
        Return the revision after the last transition.
        """
        return self.first_revision + len(self.transitions) - 1


class Space(NamedTuple):
    """
    The space that there is for a store, in bytes.

    @ivar used: the part of the file in use, with the pages that it freed for itself.
    @ivar limit: the size that the file may grow to.
    @ivar free: what the file system has free for this process.
    @ivar size: the size of the file system.
    """

    used: int
    limit: int
    free: int
    size: int


class StoreReader(NamedTuple):
    """
    A state of the store that a process reads, so that its pages cannot be overwritten.

    @ivar pid: the ID of that process.
    @ivar commits_behind: how many commits there have been since that state.
    """

    pid: int
    commits_behind: int


class IOnDisk(Interface):
    """
    A store on a disk of this machine.
    """

    def oldest_reader() -> StoreReader | None:
        """
        Return, without blocking, the oldest state that a process reads, if there is one.
        """

    def space() -> Space | None:
        """
        Return, without blocking, how much space the store has; C{None} if it is not open.
        """


class IStore(Interface):
    """
    A store of one cursor.  It is opened once, used by one committer, and closed once.
    """

    def open() -> Deferred[Any]:
        """
        Take ownership of the store, make it if there is none, and read it.

        @return: fires with L{StoredState} if only this process writes to the store, or else
            with (revision, position).  These numbers are (0, 0) for a new store only.
        @raise StoreUnusable: or one of its subclasses.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Take the whole batch, durably, or nothing of it; no earlier commit is under way.

        @raise Refusal: the batch surely did not happen; the store can be used further.
        @raise StoreDamaged: the batch surely did not happen; do not use the store any more.
        @raise Exception: with any other error the outcome is unknown; only close the store.
        """

    def history(before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return at most C{limit} durable transitions, newest first.

        @param before: the revisions are below this one; C{None} means the latest ones.
        @raise Refusal: the store cannot be read now.
        @raise StoreDamaged: the store must not be used any more.
        """

    def close() -> Deferred[None]:
        """
        Release the store.  Closing one that was never opened is harmless.
        """


class IExclusiveStore(IStore):
    """
    A store that only this process writes to.
    """

    def open() -> Deferred[StoredState]:
        """
        Take the store, make it if there is none, and read it; see L{IStore.open}.

        @return: fires with the cursor and the remembered keys.
        """

    def shortage() -> Refusal | None:
        """
        Return why no batch would be taken now, if the disk is full or the store was moved.

        This takes a few system calls.
        """


class ISharedStore(IStore):
    """
    A store whose cursor other nodes move too.  It can be used after a failure.
    """

    max_batch_keys: int = Attribute("How many idempotency keys one batch may have.")

    def turn() -> Deferred[tuple[int, int]]:
        """
        Wait for a turn to commit, so that other nodes get theirs; a commit should follow.

        A turn is no lock: it only makes conflicts rare.  So the wait is short, whatever the
        other nodes do.

        @return: fires with the newest known (revision, position) of the cursor.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Take the whole batch, durably, or nothing of it; see L{IStore.commit}.

        @raise Conflict: other nodes moved the cursor, or a key of the batch had been
            used; the batch surely did not happen.
        @raise OutcomeUnknown: the batch may have happened, or may still happen, but never
            once a later batch has happened.  So the next batch may be tried at once.
        """

    went_back_count: int = Attribute(
        "How often the cursor was found at an earlier revision than before."
    )

    turns: int = Attribute("How many turns there were.")

    turn_seconds: float = Attribute("How long this node waited for them in all.")

    certificate_expires: float | None = Attribute(
        "When this node's client certificate ends, in seconds since the epoch, if any."
    )

    def check() -> Deferred[Refusal | None]:
        """
        Find out whether a batch would be taken now, without changing anything.

        @return: fires with the reason why a batch would be refused, though the store
            answers; with C{None} if it would be taken.
        @raise Refusal: the store does not answer.
        """

    def advance(revision: int) -> Deferred[tuple[int, int]]:
        """
        Give the cursor a higher revision at the same position.  All nodes must be stopped.

        After a restore, clients so never see a revision that meant another state before.

        @return: fires with (revision, position).
        @raise StoreUnusable: there is no cursor, or it has this revision already.
        """

    def watch(
        cursor_moved: Callable[[int, int], None],
        cursor_went_back: Callable[[int, int], None],
    ) -> None:
        """
        Call C{cursor_moved} with (revision, position) when any node has moved the cursor.

        The call may come late, or never.

        @param cursor_went_back: called with (revision, position) when an operator has
            restored or emptied the store, so that the cursor is at an earlier revision than
            before.
        """

    def recall(key: bytes) -> Deferred[KeyUse | None]:
        """
        Return what the first use of C{key} did, if it is among the last L{KEPT_KEYS} keys.

        @raise Refusal: the store does not answer.
        """

    def read() -> Deferred[tuple[int, int]]:
        """
        Read the cursor.

        @return: fires with the (revision, position) of a moment after this call.
        @raise Refusal: the cursor cannot be read.
        """


class IStoreReactor(IReactorTime, IReactorFromThreads):
    """
    The part of a reactor that stores need.
    """


@frozen(kw_only=True)
class StoreOptions:
    """
    The options of a store, in addition to its URL.  Each store uses those that concern it.

    @ivar journal: how many transitions the history keeps, 1 or more.
    @ivar verify: whether to verify an existing store.  If not, only the cursor and the
        newest rows are read: the caller knows that the store was verified.
    @ivar progress: called with how much of the store was verified, in percent.
    @ivar create: whether a store may be created where there is none.
    @ivar claim: the claim of the service that this process is a worker of.  Once a store
        is claimed, no other one is opened and none is created.
    @ivar on_standby: called when another process owns the store, and this process waits
        for it as a standby.  Without C{on_standby}, a store in use is refused.
    """

    reactor: IStoreReactor
    journal: int
    verify: bool = True
    progress: Callable[[int], object] = lambda _: None
    create: bool = True
    claim: StoreClaim | None = None
    on_standby: Callable[[], object] | None = None


#: Called with the present part of the work, and how much of it is done, in percent.
ShowProgress = Callable[[str, int], object]


@frozen(kw_only=True)
class StoreSummary:
    """
    The summary of a store in a directory.

    @ivar store: its directory.
    @ivar size: the size of its data, in bytes.
    @ivar witness: the revision that a file outside the data records, if there is one.
    """

    store: str
    revision: int
    position: int
    size: int
    witness: int | None


class Backup(NamedTuple):
    """
    A backup that was made before.

    @ivar time: when it was begun, in seconds since 1970.
    @ivar revision: its revision, as far as that can be told without opening it.
    """

    time: float
    revision: int | None


@frozen(kw_only=True)
class Restored:
    """
    The result of a restore.

    @ivar store: the store as it is now.
    @ivar steps: how many steps were committed because of C{beyond}.
    @ivar kept: the directory of the replaced store, if there was one.
    """

    store: StoreSummary
    steps: int
    kept: Path | None


class IOfflineStore(Interface):
    """
    The commands on a store in a directory of this machine.  They need no service.

    Every method blocks, and raises L{StoreUnusable}, or a subclass, if it cannot be done.
    """

    directory: str = Attribute("The store's directory, as its URL names it.")

    def verify(show: ShowProgress) -> StoreSummary:
        """
        Read and verify the whole store, which no other process may use meanwhile.
        """

    def backup(target: str, keep: int | None, show: ShowProgress) -> StoreSummary:
        """
        Copy one state of the store, also while a service uses it, and verify the copy.

        @param target: the directory to make; with C{keep}, the directory of all backups.
        @param keep: how many backups to keep, the new one included; C{None} keeps all.
        """

    def backups(directory: str) -> list[Backup]:
        """
        List the backups in C{directory}, the oldest first.

        @raise OSError: the directory cannot be read.
        """

    def restore(backup: str, beyond: int | None, show: ShowProgress) -> Restored:
        """
        Put a verified copy of C{backup} in the place of the store.

        @param backup: the backup's directory.
        @param beyond: the highest revision that any client has seen.
        """

    def highest_revision() -> tuple[int, str]:
        """
        Return the highest revision that the store is known to have had, and its origin.

        @raise OSError: the store cannot be read.
        """


class IStoreFactory(Interface):
    """
    The factory of the store that one URL names: what is known of it before it is opened.

    A class of factories is called with a URL, and raises C{ValueError} if that cannot name
    a store; the message says why, without the URL.  It has two attributes: C{FORM}, the
    form of its URLs, and C{WITHOUT_SCHEME}, the pattern of a text that is probably such a
    URL without its scheme.
    """

    shared: bool = Attribute("Whether the store provides L{ISharedStore}.")

    name: str = Attribute("The store's name in messages.")

    def offline() -> IOfflineStore:
        """
        Return the commands on the store that need no service.

        @raise ValueError: the store has no directory on this machine.  The message says how
            to copy the store instead.
        """

    def absolute_url(directory: Path) -> str:
        """
        Return the URL with an absolute path; a relative one starts at C{directory}.
        """

    def lock_holder() -> str:
        """
        Return in words which process owns the store that is in use.
        """

    def check_start(*, create: bool) -> None:
        """
        Check cheaply, and without a reactor, whether a process could open the store.

        @param create: whether the process may create a store.
        @raise StoreUnusable: or one of its subclasses: it could not open the store.
        """

    def inspect(options: StoreOptions) -> Deferred[list[str]]:
        """
        Read the store, as far as possible without a change, as opening it would.

        @return: fires with facts that an operator should know.
        @raise StoreBusy: another process owns the store.
        @raise StoreUnusable: or another subclass: the store could not be opened, or would
            take no batch.
        """

    def create(options: StoreOptions) -> Deferred[None]:
        """
        Create an empty store, durably.

        @raise StoreExists: there is a store already, and it stays as it is.
        @raise StoreUnusable: or another subclass: it could not be created.
        """

    def make(options: StoreOptions) -> IStore:
        """
        Make the store, without opening it.

        @raise StoreUnusable: a file that the URL names cannot be used.
        """
