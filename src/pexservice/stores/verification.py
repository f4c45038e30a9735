"""
Whether the store of a service must be verified before a worker is active.

The first worker verifies the whole store.  Some ends of a worker are I{suspicious}, because
a bad disk can cause them.  After such an end, a standby takes over without a verification,
so that clients need not wait.  The verification stays due: the next worker that gets the
store's lock without waiting for it verifies the store.

A worker may end while it verifies the store.  Then the next worker must verify the store
before it is active, even if it is a standby.  Until then clients get 503.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from pexservice.process.scoreboard import VERIFICATION
from pexservice.process.supervisor_report import SupervisorReport

_BEGUN = b"begun"


class Verification:
    """
    Says whether a process must verify a store before it uses the store.

    This class keeps no record.  So each process verifies the store, except for a standby.
    """

    @property
    def is_due(self) -> bool:
        """
        Return whether a process that gets the lock at its start must verify the store.
        """
        return True

    @property
    def is_completed(self) -> bool:
        """
        Return whether the last verification that began was completed.
        """
        return True

    def begin(self) -> None:
        """
        Record that this process begins a verification.
        """

    def complete(self) -> None:
        """
        Record that this process has verified the store, or has made it.
        """


@frozen
class VerificationRecord(Verification):
    """
    The L{Verification} of a service, with a record in the scoreboard.

    The worker that has the store's lock writes this record: first C{begun}, and later
    C{completed at N}.  N is the number of suspicious ends so far, which the supervisor
    counts in its report.  When the report has a higher number, a verification is due.
    """

    # The scoreboard is memory that the supervisor and its workers share.
    _descriptor: int
    _read_report: Callable[[], SupervisorReport | None]

    @property
    def is_completed(self) -> bool:
        return VERIFICATION.read(self._descriptor) not in (None, _BEGUN)

    @property
    def is_due(self) -> bool:
        report = self._read_report()
        completed = VERIFICATION.read(self._descriptor)
        return report is None or completed != _completed_at(report)

    def begin(self) -> None:
        VERIFICATION.write(self._descriptor, _BEGUN)

    def complete(self) -> None:
        # The record also covers workers that ended suspiciously during the verification:
        # they did not have the lock, so they wrote nothing to the store.
        VERIFICATION.write(self._descriptor, _completed_at(self._read_report()))

    def assume_completed(self) -> None:
        """
        Record a completed verification, if no verification was recorded.

        A worker that got C{--quick-check} calls this method.  A supervisor of version 1.0.0
        passes this option if no verification is due, and its old workers record nothing.
        """
        if VERIFICATION.read(self._descriptor) is None:
            self.complete()


def _completed_at(report: SupervisorReport | None) -> bytes:
    count = None if report is None else report.suspicious_ends
    return f"completed at {count}".encode()
