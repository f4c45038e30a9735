"""
The record of the last verification of a service's store.
"""

from __future__ import annotations

import pytest

from pexservice.process import scoreboard
from pexservice.process.supervisor_report import SupervisorReport, write_report
from pexservice.stores.verification import VerificationRecord


@pytest.fixture
def report() -> SupervisorReport:
    return SupervisorReport()


@pytest.fixture
def record(board: int, report: SupervisorReport) -> VerificationRecord:
    """
    Provide the record of a service none of whose workers has opened the store.
    """
    return VerificationRecord(board, lambda: report)


def state(record: VerificationRecord) -> tuple[bool, bool]:
    """
    Return whether a verification is due, and whether the last one was completed.
    """
    return record.is_due, record.is_completed


def test_first_worker_verifies_and_the_next_one_does_not(
    record: VerificationRecord,
) -> None:
    assert state(record) == (True, False)
    record.begin()
    record.complete()
    assert state(record) == (False, True)


def test_verification_is_due_after_each_suspicious_end_until_one_is_completed(
    record: VerificationRecord, report: SupervisorReport
) -> None:
    """
    A standby may take over meanwhile, since the last verification was completed.
    """
    record.complete()
    for count in (1, 2, 3):
        report.suspicious_ends = count
        assert state(record) == (True, True)
    record.begin()
    assert state(record) == (True, False)
    record.complete()
    assert state(record) == (False, True)


def test_supervisor_of_version_1_0_0_says_that_no_verification_is_due(
    record: VerificationRecord, report: SupervisorReport
) -> None:
    """
    Its workers of version 1.0.0 write no record, so the option C{--quick-check} counts.

    But a verification that a new worker has begun must be completed.
    """
    report.suspicious_ends = 2
    record.assume_completed()
    assert state(record) == (False, True)
    record.begin()
    record.assume_completed()
    assert state(record) == (True, False)


def test_unreadable_report_makes_a_verification_due(board: int) -> None:
    record = VerificationRecord(board, lambda: None)
    record.complete()
    assert record.is_due


def test_other_records_of_the_scoreboard_leave_it_alone(
    board: int, record: VerificationRecord
) -> None:
    record.complete()
    write_report(board, SupervisorReport(problem="x" * 2000))
    scoreboard.ACCEPTED_LOSSES.write(board, b"x" * 2000)
    scoreboard.CLAIM.write(board, b"x" * 2000)
    assert not record.is_due
