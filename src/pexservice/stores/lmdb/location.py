"""
The location of a store: whether the configured path leads to the store that was opened.

While a service runs, an operator may move the directory of the store, switch the symbolic
link that leads to it, or unmount the disk.  Then the next worker would open or create
another store, and steps would be lost.  Two rules prevent this:

  - The active worker compares the store that it opened with the store at the configured
    path, and refuses steps while the two have a different I{identity}.  The identity is
    made of two pairs of device and inode: those of the directory and of the data file.
  - The first worker I{claims} the store for the service: it writes the identity into memory
    that all workers of the service share.  Later workers open no store with another
    identity, and create no store.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import define
from twisted.logger import Logger

from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import Refusal, StoreError


@define(eq=False)
class StoreLocation:
    """
    The configured path of a store, and the identity of the store in the locked directory.

    C{claim} names the store that all workers of the service use.  It is C{None} outside a
    worker.
    """

    _log = Logger()

    # The configured path, and the path of the data file below it.
    _directory: Path
    _data_file: Path
    _claim: StoreClaim | None
    _identity: str = ""
    _logged_problem: str | None = None

    def set_identity(self, identity: str) -> None:
        """
        Remember the identity of the store that was found in the locked directory.

        @raise StoreError: the service has claimed a different store.
        """
        self._identity = identity
        if self._claim is not None:
            self._check_identity(self._claim.identity() or identity)

    def replace_identity(self, identity: str) -> None:
        """
        Remember the identity of a new store in the locked directory.

        If the service has claimed the store that was replaced, it claims the new store
        instead.
        """
        replaced, self._identity = self._identity, identity
        if self._claim is not None:
            self._claim.renew(replaced, identity)

    def refuse_if_claimed(self) -> None:
        """
        Call this if there is no store at the configured path.

        @raise StoreError: the service has claimed a store, so none may be created.
        """
        if self._claim is not None and self._claim.identity() is not None:
            raise StoreError(
                f"the store {self._directory} is gone; put it back, since only a start of"
                " the service may create a store"
            )

    def claim_store(self) -> None:
        """
        Claim the store for the service.  Call this when LMDB has opened the store.

        @raise StoreError: the configured path leads to no store or to a different one, or
            the service has claimed a different store.
        """
        self._compare_with_path()
        if self._claim is not None:
            self._check_identity(self._claim.take(self._identity))

    def check(self) -> None:
        """
        Check that the configured path leads to the opened store.

        If the outcome has changed since the last call, log it.

        @raise Refusal: the path leads to no store, or to a different one.
        """
        try:
            self._compare_with_path()
        except StoreError as error:
            self._log_problem(str(error))
            raise Refusal(str(error)) from error
        self._log_problem(None)

    def _log_problem(self, problem: str | None) -> None:
        if problem == self._logged_problem:
            return
        self._logged_problem = problem
        if problem is None:
            self._log.info("the store {name} is back", name=self._directory)
        else:
            self._log.error("{problem}; steps are refused", problem=problem)

    def _compare_with_path(self) -> None:
        try:
            identity = identity_of(self._directory.stat(), self._data_file.stat())
        except OSError as error:
            raise StoreError(
                f"the store {self._directory} was moved away ({error.strerror})"
            ) from error
        self._check_identity(identity)

    def _check_identity(self, identity: str) -> None:
        if identity != self._identity:
            raise StoreError(
                f"another store was put in the place of {self._directory}; put back the one"
                " that the service has served, or restart the service"
            )


def identity_of(directory: os.stat_result, data_file: os.stat_result) -> str:
    return " ".join(f"{status.st_dev}:{status.st_ino}" for status in (directory, data_file))
