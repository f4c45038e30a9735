"""
The interface of a store that several nodes write to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from zope.interface import Attribute

from pexservice.core.cursor import Cursor
from pexservice.stores.errors import Refusal
from pexservice.stores.interface import Batch, IStore
from pexservice.stores.remembered_keys import KeyUse


class Conflict(Exception):
    """
    A batch is not stored, and will not be stored later.

    Another node has moved the cursor since the batch began, or one of the batch's
    idempotency keys was used before.

    @ivar cursor: the newest known cursor.
    @ivar used: for each idempotency key of the batch that was used before, its first use,
        or the L{Refusal} that prevented reading it.
    """

    def __init__(self, cursor: Cursor, used: Mapping[bytes, KeyUse | Refusal]) -> None:
        super().__init__(f"the cursor is at revision {cursor.revision}")
        self.cursor = cursor
        self.used = used


class ISharedStore(IStore):
    """
    A store that several nodes write to.  It remains usable after a failure.
    """

    max_batch_keys: int = Attribute("How many idempotency keys one batch may have.")

    # For metrics.

    went_back_count: int = Attribute(
        "How often the cursor was found at an earlier revision than before."
    )

    turn_count: int = Attribute("How many turns this node has had.")

    turn_wait_seconds: float = Attribute(
        "How many seconds this node has waited for its turns."
    )

    certificate_expires: float | None = Attribute(
        "When this node's client certificate expires, in seconds since 1970, if it has one."
    )

    def turn() -> Deferred[Cursor]:
        """
        Wait for this node's turn to commit, but only for a limited time.

        Turns make conflicts rare, and give each node its share.  A turn is no lock: a
        commit out of turn is safe, but may cause a conflict.

        @return: fires with the newest known cursor.  The caller should commit now.
        """

    def commit(batch: Batch) -> Deferred[None]:
        """
        Write the whole batch durably, or nothing of it; see L{IStore.commit}.

        @raise Conflict: another node has moved the cursor since the batch began, or a key
            of the batch was used before.  The batch is not stored.
        @raise OutcomeUnknown: the batch may be stored already, or may be stored later.  But
            it cannot be stored after any other batch, because then the cursor is at another
            revision.  So the caller may commit another batch at once.
        """

    def read() -> Deferred[Cursor]:
        """
        Read the cursor.

        @return: fires with the newest known cursor, which is the cursor at some moment
            between this call and the firing.
        @raise Refusal: the cursor cannot be read.
        """

    def recall(key: bytes) -> Deferred[KeyUse | None]:
        """
        Return the first use of the idempotency key C{key}.

        @return: fires with C{None} if the store does not have the key; it has at least the
            last L{KEPT_KEYS<pexservice.stores.remembered_keys.KEPT_KEYS>} keys.
        @raise Refusal: the store does not answer.
        """

    def watch(cursor_changed: Callable[[Cursor], None]) -> None:
        """
        Call C{cursor_changed} with each cursor that this node learns.

        Such a call may come late, or not at all.  The cursor is newer than the cursor
        before, or at an earlier revision because an operator restored or emptied the store.
        """

    def probe() -> Deferred[Refusal | None]:
        """
        Ask the store whether it would accept a batch now, without changing anything.

        @return: fires with the reason why the store would refuse a batch; with C{None} if
            it would accept one.
        @raise Refusal: the store does not answer.
        """

    def advance(revision: int) -> Deferred[Cursor]:
        """
        Give the cursor a higher revision at the same position.  All nodes must be stopped.

        An operator does this after a restore.  Otherwise the store would use revisions
        again that clients have already seen.

        @raise StoreError: there is no cursor, or its revision is C{revision} or higher.
        """
