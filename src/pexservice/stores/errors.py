"""
The errors of a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pexservice.process.exit_status import Status
from pexservice.stores.remembered_keys import KeyUse


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
