"""
The errors of a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pexservice.core.cursor import Cursor
from pexservice.process.exit_status import Status
from pexservice.stores.remembered_keys import KeyUse


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

    For example, etcd does not answer or has no space; or no worker of the service has
    verified a local store yet.
    """


class StoreMisconfigured(StoreError):
    """
    The store's URL or a file in it is wrong; or etcd is too old, or refuses the user.
    """

    exit_status = Status.MISCONFIGURED


class Refusal(Exception):
    """
    The store or the committer refuses a batch, a step or a read; the message says why.

    A refused batch or step is not stored.  If the store has refused it, the store remains
    usable.
    """


class OutcomeUnknown(Exception):
    """
    The store failed during a commit, so it is unknown whether the batch is stored.

    An exclusive store can then only be closed; after it was opened again, it shows whether
    the batch is stored.  In a shared store, the batch may also be stored later; see
    L{ISharedStore.commit<pexservice.stores.interface.ISharedStore.commit>}.
    """


class Conflict(Exception):
    """
    The batch is not stored, and will not be stored later.

    Either the batch does not begin at the cursor's state, or one of its idempotency keys
    was used before.  Only a shared store raises this error.

    @ivar cursor: the cursor, as far as the store knows.
    @ivar used: for each idempotency key of the batch that was used before, its first use,
        or the L{Refusal} that prevented reading it.
    """

    def __init__(self, cursor: Cursor, used: Mapping[bytes, KeyUse | Refusal]) -> None:
        super().__init__(f"the cursor is at revision {cursor.revision}")
        self.cursor = cursor
        self.used = used
