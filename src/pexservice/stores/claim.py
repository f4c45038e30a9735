"""
The claim of a service: the one store that its workers may open.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from pexservice.process.scoreboard import CLAIM


@frozen
class StoreClaim:
    """
    A record in the scoreboard with the identity of the store that the service has claimed.

    If an operator replaces the files of the store, even by a copy, the new files have
    another identity, and later workers refuse to open them.  The identity of a store in
    etcd is its prefix.

    The first worker writes the claim itself, before it is active.  If the supervisor wrote
    the claim later, a second worker might open another store meanwhile.
    """

    # The scoreboard is memory that the supervisor and its workers share.
    _descriptor: int

    def identity(self) -> str | None:
        claimed = CLAIM.read(self._descriptor)
        return None if claimed is None else claimed.decode()

    def take(self, identity: str) -> str:
        """
        Claim the store C{identity}, unless the service has claimed a store already.

        @return: the identity of the store that is claimed now.
        """
        with self._locked():
            claimed = self.identity()
            if claimed is None:
                CLAIM.write(self._descriptor, identity.encode())
                return identity
            return claimed

    def renew(self, old: str, new: str) -> None:
        """
        Claim the store C{new}, which replaces the store C{old}, if C{old} is claimed.
        """
        with self._locked():
            if self.identity() == old:
                CLAIM.write(self._descriptor, new.encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Without a lock, two workers that open two stores at the same moment could both
        # claim their store.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
