"""
The interfaces of a store, of its offline commands and of its factory, and their errors.
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


class StoreError(Exception):
    """
    The store cannot be opened, or cannot be used any more; the message names the store.

    The subclasses say why.  After L{StoreUnavailable} a retry may succeed.  After
    L{StoreDamaged} no retry succeeds.

    @cvar exit_status: the exit status of a process that cannot open the store because of
        this error.
    """

    exit_status: ClassVar[Status] = Status.CANNOT_START


class StoreBusy(StoreError):
    """
    Another process has locked the store.
    """


class ReadingChildKilled(StoreError):
    """
    The child process that read the store was killed, for example when memory was short.
    """

    exit_status = Status.STORE_FAILED


class StoreDamaged(StoreError):
    """
    The store contains something that no commit wrote, or has lost commits.

    A restart does not help, and the service never resets a store.  An operator must restore
    a backup.
    """

    exit_status = Status.DAMAGED


class StoreIncompatible(StoreError):
    """
    The store has a format that this program does not read.  This is no damage.

    The message names the version of that format, and the versions that can be read.
    """

    exit_status = Status.MISCONFIGURED


class StoreUnavailable(StoreError):
    """
    The store cannot be opened now, but a retry may succeed.

    For example, etcd does not answer or has no space; or no worker of the service has
    verified a local store yet.
    """


class StoreMisconfigured(StoreError):
    """
    The store refuses this program, or a part of the store's URL is wrong.
    """

    exit_status = Status.MISCONFIGURED


class Refusal(Exception):
    """
    The store or the committer refuses a batch, a step or a read; the message says why.

    What was refused surely never happens.
    """


class OutcomeUnknown(Exception):
    """
    The store failed during a commit, so the batch may have happened or not.

    If the store is exclusive, opening it again shows whether the batch has happened.  If it
    is shared, the batch may also happen later; see L{ISharedStore.commit}.
    """


class Conflict(Exception):
    """
    The batch did not happen, and will not happen later.

    Either the batch does not begin at the cursor's state, or one of its idempotency keys
    was used before.  Only a shared store raises this error.

    @ivar revision: the cursor's revision, as far as the store knows.
    @ivar position: the cursor's position, as far as the store knows.
    @ivar used: a mapping from each idempotency key of the batch that was used before to its
        first use, or to the reason why its first use cannot be read.
    """

    def __init__(
        self, revision: int, position: int, used: Mapping[bytes, KeyUse | Refusal]
    ) -> None:
        super().__init__(f"the cursor is at revision {revision}")
        self.revision = revision
        self.position = position
        self.used = used


class StoredState(NamedTuple):
    """
    The cursor and the newest keys of an exclusive store when it was opened.
    """

    revision: int
    position: int
    remembered_keys: RememberedKeys


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
    The content of one transaction: consecutive transitions, and the state after them.

    @ivar first_revision: the revision of the first transition.
    @ivar start_position: the position before the first transition.
    @ivar transitions: the codes of the transitions, one byte each; never empty.
    @ivar position: the position after the last transition.
    @ivar time_ns: nanoseconds since the epoch.
    @ivar keys: a mapping from each idempotency key of this batch, oldest first, to its use,
        packed by C{pexservice.stores.remembered_keys.pack_use}.
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
    The disk space of a store, in bytes.

    @ivar used: the size of the part of the store's file that was ever in use.
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


class IOnDisk(Interface):
    """
    A store on a disk of this machine.
    """

    def oldest_reader() -> OldStateReader | None:
        """
        Return the process that reads the oldest state; C{None} if no process reads any.

        This does not block.
        """

    def space() -> Space | None:
        """
        Return the space of the store; C{None} if it is not open.  This does not block.
        """


class IStore(Interface):
    """
    A store of one cursor, which one committer uses.
    """

    def open() -> Deferred[Any]:
        """
        Open the store, and create it if there is none.  A failed call may be repeated.

        @return: fires with L{StoredState} from an exclusive store, and with (revision,
            position) from a shared store.  A new store has (0, 0).
        @raise StoreError: or one of its subclasses.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it.

        The caller waits for each commit before it begins the next one.

        @raise Refusal: the batch surely did not happen.  The store remains usable.
        @raise StoreError: the batch surely did not happen.  The store can only be
            closed.  L{StoreDamaged} is such an error.
        @raise Exception: after any other error, it is unknown whether the batch happened,
            and an exclusive store can only be closed.
        """

    def history(before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Return at most C{limit} durable transitions, newest first.

        @param before: return only revisions below this one; C{None} begins with the newest.
        @raise Refusal: the store cannot be read now.
        @raise StoreDamaged: the store can only be closed.
        """

    def close() -> Deferred[None]:
        """
        Close the store, which may not have been opened.
        """


class IExclusiveStore(IStore):
    """
    A store that only this process writes to.
    """

    def open() -> Deferred[StoredState]:
        """
        Lock the store, create it if there is none, and read it; see L{IStore.open}.
        """

    def commit_refusal() -> Refusal | None:
        """
        Return why commits are refused now: the disk is full, or the store was moved.

        C{None} means that commits are accepted.  Each call makes a few system calls.
        """


class ISharedStore(IStore):
    """
    A store that several nodes write to.  It remains usable after a failure.
    """

    max_batch_keys: int = Attribute("How many idempotency keys one batch may have.")

    def turn() -> Deferred[tuple[int, int]]:
        """
        Wait until it is this node's turn to commit.  The caller should commit next.

        Turns make conflicts rare, and give each node its share.  A turn is no lock, and a
        commit out of turn is safe.  So this node waits for a limited time only, and then
        commits out of turn.

        @return: fires with the newest known (revision, position) of the cursor.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it; see L{IStore.commit}.

        @raise Conflict: another node moved the cursor, or a key of the batch was used
            before.  The batch surely did not happen.
        @raise OutcomeUnknown: the batch has happened, may happen later, or never happens.
            A batch can happen only at the state of the cursor at which it begins.  So after
            any later batch has happened, this one cannot, and the caller need not wait.
        """

    went_back_count: int = Attribute(
        "How often the cursor was found at an earlier revision than before."
    )

    turns: int = Attribute("How many turns this node has had.")

    turn_seconds: float = Attribute("How many seconds this node has waited for its turns.")

    certificate_expires: float | None = Attribute(
        "When this node's client certificate expires, in seconds since the epoch, if any."
    )

    def probe() -> Deferred[Refusal | None]:
        """
        Ask the store whether it would accept a batch now, without changing anything.

        @return: fires with the refusal of a batch, or with C{None}.
        @raise Refusal: the store does not answer.
        """

    def advance(revision: int) -> Deferred[tuple[int, int]]:
        """
        Give the cursor a higher revision at the same position.  All nodes must be stopped.

        After a restore, the store would otherwise use revisions again that clients have
        seen.

        @return: fires with (revision, position).
        @raise StoreError: there is no cursor, or its revision is not lower.
        """

    def watch(
        cursor_moved: Callable[[int, int], None],
        cursor_went_back: Callable[[int, int], None],
    ) -> None:
        """
        Call C{cursor_moved} with (revision, position) when any node has moved the cursor.

        Calls may come late, and may be missing.

        @param cursor_went_back: called with (revision, position) when the cursor is at an
            earlier revision than before, because an operator restored or emptied the store.
        """

    def recall(key: bytes) -> Deferred[KeyUse | None]:
        """
        Return what the first use of C{key} did.

        @return: fires with C{None} if C{key} is not among the last L{KEPT_KEYS} keys.

        @raise Refusal: the store does not answer.
        """

    def read() -> Deferred[tuple[int, int]]:
        """
        Read the cursor.

        @return: fires with the (revision, position) that the cursor had at some moment
            between this call and the firing.
        @raise Refusal: the cursor cannot be read.
        """


class IStoreReactor(IReactorTime, IReactorFromThreads):
    """
    The interfaces of a reactor that stores need.
    """


@frozen(kw_only=True)
class StoreOptions:
    """
    The options of a store, in addition to its URL.  A store may ignore some of them.

    @ivar journal: how many transitions the history keeps, 1 or more.
    @ivar verify: whether to verify the whole store before it is used.  If not, only the
        cursor and the newest rows are checked.
    @ivar progress: called with how much of the store was verified, in percent.
    @ivar create: whether a store may be created where there is none.
    @ivar claim: the record of the store that this worker's service has claimed.  If it
        names a store, no other store is opened, and none is created.
    @ivar on_standby: called before this process waits, as a standby, for a store that
        another process has locked.  If it is C{None}, such a store raises L{StoreBusy}.
    """

    reactor: IStoreReactor
    journal: int
    verify: bool = True
    progress: Callable[[int], object] = lambda _: None
    create: bool = True
    claim: StoreClaim | None = None
    on_standby: Callable[[], object] | None = None


#: Called with the name of the present part of the work, and the progress of this part in
#: percent.
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

    @ivar time: when the backup was begun, in seconds since 1970.
    @ivar revision: the revision in the witness of the backup; C{None} if it has no witness.
    """

    time: float
    revision: int | None


@frozen(kw_only=True)
class Restored:
    """
    The result of a restore.

    @ivar summary: the summary of the restored store.
    @ivar steps: how many steps L{IOfflineStore.restore} has added.
    @ivar kept: the directory that now has the replaced store; C{None} if there was no
        store.
    """

    summary: StoreSummary
    steps: int
    kept: Path | None


class IOfflineStore(Interface):
    """
    The commands on a store in a directory of this machine, which need no service.

    Every method blocks, and raises L{StoreError} or a subclass if it fails.
    """

    directory: str = Attribute("The store's directory, as its URL names it.")

    def verify(show: ShowProgress) -> StoreSummary:
        """
        Read and verify the whole store, which no other process may use meanwhile.
        """

    def backup(target: str, keep: int | None, show: ShowProgress) -> StoreSummary:
        """
        Copy one state of the store, which a service may be using, and verify the copy.

        @param target: the directory to make; with C{keep}, the directory of all backups.
        @param keep: how many backups to keep, the new one included; C{None} keeps all.
        """

    def backups(directory: str) -> list[Backup]:
        """
        List the backups in C{directory}, the oldest first.

        @raise OSError: the directory cannot be read.
        """

    def restore(backup: str, above_revision: int | None, show: ShowProgress) -> Restored:
        """
        Put a verified copy of C{backup} in the place of the store.

        @param backup: the backup's directory.
        @param above_revision: the highest revision that any client has seen.  Steps are
            added until the copy's revision is higher.
        """

    def highest_revision() -> tuple[int, str]:
        """
        Return the highest revision that the store is known to have had, and its origin.

        @raise OSError: the store cannot be read.
        """


class IStoreFactory(Interface):
    """
    The factory of the store that one URL names.

    A factory class is called with the URL, and raises C{ValueError} if the URL is wrong.
    The message says why, and leaves out the URL.  The class has two attributes: C{FORM},
    the form of its URLs, and C{WITHOUT_SCHEME}, a pattern of the texts that become such a
    URL if the scheme is put before them.  An error message suggests this URL.
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
        Return the URL with an absolute path.  A relative path begins at C{directory}.
        """

    def lock_holder() -> str:
        """
        Describe the process that has locked the store.
        """

    def check_openable(*, create: bool) -> None:
        """
        Check whether a process could open the store.  This is cheap and needs no reactor.

        @param create: whether the process may create a store.
        @raise StoreError: or a subclass: the process could not open the store.
        """

    def inspect(options: StoreOptions) -> Deferred[list[str]]:
        """
        Check whether the store could be opened and would accept a batch; change nothing.

        @return: fires with facts that an operator should know.
        @raise StoreBusy: another process has locked the store.
        @raise StoreError: or another subclass: the store could not be opened.
        """

    def create(options: StoreOptions) -> Deferred[None]:
        """
        Create an empty store, durably.

        @raise StoreError: or a subclass: there is already a store, which does not change;
            or no store could be created.
        """

    def make(options: StoreOptions) -> IStore:
        """
        Make the object that represents the store, without opening the store.

        @raise StoreError: a file that the URL names cannot be used.
        """
