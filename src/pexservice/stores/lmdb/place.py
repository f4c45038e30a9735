"""
The check, while a store is served, that it is still where it was opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pexservice.stores.interface import NotTaken, StoreUnusable
from pexservice.stores.lmdb.directory import Directory

#: How long a commit trusts that the store is where it was.  Seconds: a check is a system
#: call, and this is as long as many commits of a fast disk take together.
PLACE_INTERVAL = 0.1


class Place:
    """
    The place of a store that this process owns.
    """

    def __init__(
        self, directory: Directory, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self._check_at = monotonic()

    def check(self) -> None:
        """
        Check, now and then, that the next process will find what is committed.

        @raise NotTaken: there is nothing under the store's name now.
        @raise StoreUnusable: something else has that name, which the next process opens.
        """
        now = self._monotonic()
        if now < self._check_at:
            return
        try:
            self.require_its_name()
        except OSError as error:
            raise NotTaken(
                f"the store {self._directory.path} was moved away ({error.strerror})"
            ) from error
        self._check_at = now + PLACE_INTERVAL

    def require_its_name(self) -> None:
        """
        Check at once that the store still has its name.

        @raise OSError: there is nothing under the store's name.
        @raise StoreUnusable: something else has that name.
        """
        if not self._directory.has_its_name():
            raise StoreUnusable(
                f"another store was put in the place of {self._directory.path}"
            )
