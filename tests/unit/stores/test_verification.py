"""
The record of the last verification of a service's store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pexservice.process import scoreboard
from pexservice.process.supervisor_report import SupervisorReport, write_report
from pexservice.stores.verification import VerificationRecord


class Service:
    """
    The report of a supervisor, and the workers that read it.
    """

    def __init__(self, board: int) -> None:
        self.report = SupervisorReport()
        self._board = board

    def worker(self) -> VerificationRecord:
        """
        Return the record as a new worker has it.
        """
        return VerificationRecord(self._board, lambda: self.report)


@pytest.fixture
def service() -> Iterator[Service]:
    """
    Provide a service none of whose workers has opened the store.
    """
    board = scoreboard.create()
    yield Service(board)
    os.close(board)


def test_first_worker_verifies_and_the_next_one_does_not(service: Service) -> None:
    first = service.worker()
    assert (first.is_due, first.is_completed) == (True, False)
    first.begin()
    first.complete()
    second = service.worker()
    assert (second.is_due, second.is_completed) == (False, True)


def test_verification_is_due_after_each_suspicious_end_until_one_is_completed(
    service: Service,
) -> None:
    """
    A standby may take over meanwhile, since the last verification was completed.
    """
    service.worker().complete()
    for count in (1, 2, 3):
        service.report.suspicious_ends = count
        worker = service.worker()
        assert (worker.is_due, worker.is_completed) == (True, True)
    worker.begin()
    assert (worker.is_due, worker.is_completed) == (True, False)
    worker.complete()
    assert (worker.is_due, worker.is_completed) == (False, True)


def test_end_that_is_counted_after_the_verification_makes_another_one_due(
    service: Service,
) -> None:
    service.worker().complete()
    service.report.suspicious_ends = 1
    assert service.worker().is_due


def test_supervisor_of_version_1_0_0_says_that_no_verification_is_due(
    service: Service,
) -> None:
    """
    Its workers of version 1.0.0 write no record, so the option C{--quick-check} counts.

    But a verification that a new worker has begun must be completed.
    """
    service.report.suspicious_ends = 2
    worker = service.worker()
    worker.assume_completed()
    assert (worker.is_due, worker.is_completed) == (False, True)
    worker.begin()
    worker.assume_completed()
    assert (worker.is_due, worker.is_completed) == (True, False)


def test_unreadable_report_makes_a_verification_due() -> None:
    board = scoreboard.create()
    worker = VerificationRecord(board, lambda: None)
    worker.complete()
    assert worker.is_due
    os.close(board)


def test_other_records_of_the_scoreboard_leave_it_alone() -> None:
    board = scoreboard.create()
    record = VerificationRecord(board, SupervisorReport)
    record.complete()
    write_report(board, SupervisorReport(problem="x" * 2000))
    scoreboard.ACCEPTED_LOSSES.write(board, b"x" * 2000)
    scoreboard.CLAIM.write(board, b"x" * 2000)
    assert not record.is_due
    os.close(board)
