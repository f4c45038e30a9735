"""
The look-up of idempotency keys.
"""

from __future__ import annotations

from collections.abc import Callable

import lmdb

from pexservice.stores.interface import Remembered
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import Databases
from pexservice.stores.lmdb.transaction import Extent


class KeyReader:
    """
    A reader whose look-ups between two commits share a transaction.

    To begin a transaction costs twice as much as to look a key up.

    The transaction must be let go of before the next commit begins, and before the map
    changes.
    """

    def __init__(self, databases: Callable[[], Databases]) -> None:
        """
        @param databases: returns the open databases.
        """
        self._databases = databases
        self._txn: lmdb.Transaction[bytes] | None = None
        self._extent: Extent | None = None

    def look_up(self, key: bytes, extent: Extent) -> Remembered | None:
        """
        Return what the first use of an idempotency key did.

        @param extent: the extent that the last commit left.
        """
        txn = self._txn
        if txn is None or extent is not self._extent:
            # An older one would not see a commit in the thread that has ended by now.
            self.let_go()
            txn = self._txn = self._databases().env.begin()
            self._extent = extent
        try:
            value = txn.get(records.name_key(key), db=self._databases().keys)
            return None if value is None else records.read_remembered(key, value)
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """
        End the transaction: as long as it lasts, LMDB uses no page again that it sees.
        """
        txn, self._txn = self._txn, None
        if txn is not None:
            txn.abort()
