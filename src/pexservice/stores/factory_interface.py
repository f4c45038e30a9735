"""
The interfaces of a store's factory and of its offline commands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from zope.interface import Attribute, Interface

from pexservice.stores.claim import StoreClaim
from pexservice.stores.interface import IStore
from pexservice.stores.verification import Verification


class IStoreReactor(IReactorTime, IReactorFromThreads):
    """
    The interfaces of a reactor that stores need.
    """


@frozen(kw_only=True)
class StoreOptions:
    """
    The options of a store, in addition to its URL.  A store may ignore some of them.

    @ivar journal: how many transitions the history keeps, 1 or more.
    @ivar progress: called with how much of the store was verified, in percent.
    @ivar create: whether a store may be created where there is none.
    @ivar claim: the record of the store that this worker's service has claimed.  If it
        names a store, no other store is opened, and none is created.
    @ivar verification: says whether to verify the whole store before it is used.
    """

    reactor: IStoreReactor
    journal: int
    progress: Callable[[int], object] = lambda _: None
    create: bool = True
    claim: StoreClaim | None = None
    verification: Verification = Factory(Verification)


#: Called with the name of the present part of the work, and the progress of this part in
#: percent.
ShowProgress = Callable[[str, int], object]


@frozen(kw_only=True)
class StoreSummary:
    """
    The summary of a store in a directory.

    @ivar store: its directory.
    @ivar size: the size of its data, in bytes.
    @ivar witness: the revision in the witness, a file next to the data that records the
        newest commit; C{None} if there is no such file.
    """

    store: str
    revision: int
    position: int
    size: int
    witness: int | None


class Backup(NamedTuple):
    """
    An earlier backup.

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
    @ivar steps: how many steps L{IOfflineStore.restore} has added to raise the revision.
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
        Copy the store, and verify the copy.  A service may use the store meanwhile.

        @param target: the new directory of the backup, if C{keep} is C{None}; otherwise the
            directory of all backups, in which the new backup gets a directory.
        @param keep: how many backups to keep, the new one included; the oldest are removed.
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
            added until the copy's revision is higher, so that no client sees one revision
            with two states.  C{None} adds no steps.
        """

    def highest_revision() -> tuple[int, str]:
        """
        Return the highest revision that the store is known to have had, and its source.

        The source is for a message, for example C{in the replaced store}.

        @raise OSError: the store cannot be read.
        """


class IStoreFactory(Interface):
    """
    The factory of the store that one URL names.

    A factory class is called with the URL, and raises C{ValueError} if the URL is wrong.
    The message says why, and leaves out the URL, which may contain a password.

    The class has two attributes for error messages.  C{FORM} shows the form of its URLs.
    C{WITHOUT_SCHEME} is a pattern of such URLs without their scheme: if a URL matches the
    pattern, the message suggests the URL with the scheme.  If the patterns of two stores
    match, the message suggests the first one of the registry.

    The module of the class must not import the library of the store, because messages need
    the class even if another store is used.
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
