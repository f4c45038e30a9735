"""
The errors of a store.
"""

from __future__ import annotations

from typing import ClassVar

from pexservice.process.exit_status import Status


class StoreError(Exception):
    """
    The store cannot be opened, or cannot be used any more; the message names the store.

    The subclasses say why.  After L{StoreUnavailable} a retry may succeed.  After
    L{StoreDamaged} no retry succeeds.  If a commit raises this error, the batch is not
    stored, and the store can only be closed.

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

    For example, etcd does not answer or has no space, or a worker must first verify it.
    """


class StoreMisconfigured(StoreError):
    """
    The URL or a file that it names is wrong; or etcd is too old, or refuses the user.
    """

    exit_status = Status.MISCONFIGURED


class Refusal(Exception):
    """
    The store or the committer refuses a batch, a step or a read; the message says why.

    A refused batch or step is not stored.  A store that has refused a batch or a read
    remains usable.
    """


class OutcomeUnknown(Exception):
    """
    The store failed during a commit, so it is unknown whether the batch is stored.

    An exclusive store can then only be closed.  When it is opened again, its cursor shows
    whether the batch is stored.  In a shared store, the batch may also be stored later; see
    L{ISharedStore.commit<pexservice.stores.shared_interface.ISharedStore.commit>}.
    """
