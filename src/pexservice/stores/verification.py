"""
Whether the store of a service must be verified before a worker is active.

The first worker verifies the whole store.  After a worker ended suspiciously, which means
in a way that a bad disk can cause, the next worker that gets the store's lock at its start
verifies the store again.  A standby takes over without a verification, so that clients need
not wait, and the verification stays due.  But it never takes over from a worker that has
begun a verification and not completed it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen

from pexservice.process.scoreboard import VERIFICATION
from pexservice.process.supervisor_report import SupervisorReport

_BEGUN = b"begun"


@frozen
class VerificationRecord:
    """
    A record in the scoreboard of the last verification of the store.

    Only the worker that has the store's lock writes the record: that it begins a
    verification, and later at which number of suspicious ends it completed this.  The
    supervisor only counts the suspicious ends, in its report.  So no two processes write
    the same record, and no process waits for another.
    """

    # The scoreboard, open for reading and writing.
    _descriptor: int
    _read_report: Callable[[], SupervisorReport | None]
    # A supervisor of version 1.0.0 counts no suspicious ends.  It sets this unless a
    # verification is due.
    _quick_check: bool = field(default=False, kw_only=True)

    @property
    def is_completed(self) -> bool:
        """
        Return whether a verification was completed, and none was begun later.
        """
        content = VERIFICATION.read(self._descriptor)
        return self._quick_check if content is None else content != _BEGUN

    @property
    def is_due(self) -> bool:
        """
        Return whether a worker that gets the lock at its start must verify the store.
        """
        if not self.is_completed:
            return True
        count = self._suspicious_ends
        if count is None:
            return not self._quick_check
        return VERIFICATION.read(self._descriptor) != _completed_at(count)

    @property
    def _suspicious_ends(self) -> int | None:
        report = self._read_report()
        return None if report is None else report.suspicious_ends

    def begin(self) -> None:
        VERIFICATION.write(self._descriptor, _BEGUN)

    def complete(self) -> None:
        """
        Record that this process has verified the store and has its lock.

        Each worker that wrote to the store ended before this process got the lock.  So the
        verification has read what the workers with the counted suspicious ends have left.
        """
        VERIFICATION.write(self._descriptor, _completed_at(self._suspicious_ends))


def _completed_at(suspicious_ends: int | None) -> bytes:
    return f"completed at {suspicious_ends}".encode()
