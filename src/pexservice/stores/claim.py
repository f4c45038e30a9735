"""
The claim of a service: the one store that its workers may open.
"""

from __future__ import annotations

import fcntl

from attrs import frozen

from pexservice.process.scoreboard import CLAIM


@frozen
class StoreClaim:
    """
    A record in the scoreboard with the identity of the store that the service has claimed.

    Every other store, even a copy, has another identity.  The first worker writes the claim
    itself, before it is active.  If the supervisor wrote the claim later, a second worker
    might open another store meanwhile.
    """

    # The scoreboard, open for reading and writing.
    _descriptor: int

    def identity(self) -> str | None:
        claimed = CLAIM.read(self._descriptor)
        return None if claimed is None else claimed.decode()

    def take(self, identity: str, *, replace: bool) -> str:
        """
        Claim the store C{identity}, unless another one is claimed.

        @param replace: whether to claim C{identity} in any case, because this process has
            rewritten the store.
        @return: the identity of the store that is claimed now.
        """
        # Two workers may open two stores at the same moment, so a lock is needed.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            claimed = self.identity()
            if claimed is None or replace:
                CLAIM.write(self._descriptor, identity.encode())
                claimed = identity
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return claimed
