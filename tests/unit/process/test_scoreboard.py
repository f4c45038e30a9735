"""
The counts of the supervisor, in memory that its workers read.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pexservice.process import scoreboard
from pexservice.process.accepted_losses import accept_losses, take_accepted_losses
from pexservice.process.supervisor_report import (
    END_REASONS,
    MAX_TEXT_LENGTH,
    Process,
    Reload,
    SupervisorReport,
    read_report,
    write_report,
)
from pexservice.stores.claim import StoreClaim
from tests.support.installation import RELEASE_WHEEL


@pytest.fixture
def descriptor() -> Iterator[int]:
    """
    Provide the file descriptor of a scoreboard.
    """
    new_scoreboard = scoreboard.create()
    yield new_scoreboard
    os.close(new_scoreboard)


def report(number: int) -> SupervisorReport:
    """
    Return a report whose counts are all C{number}.
    """
    return SupervisorReport(number, number, number, dict.fromkeys(END_REASONS, number))


def test_written_report_is_read(descriptor: int) -> None:
    write_report(descriptor, report(1))
    assert read_report(descriptor) == report(1)
    written = report(2)
    written.reload = Reload.FAILED
    written.problem = "the disk of Zoë is not mounted"
    written.restart_pending = ("store",)
    written.processes = (Process("supervisor", 4170, "running"), Process("w", 9, "active"))
    write_report(descriptor, written)
    assert read_report(descriptor) == written


def test_record_that_is_not_whole_is_not_guessed(descriptor: int) -> None:
    assert read_report(descriptor) is None
    write_report(descriptor, report(7))
    length = os.fstat(descriptor).st_size
    whole = os.pread(descriptor, length, 0)
    for number in range(2048, length):
        changed = bytearray(whole)
        changed[number] ^= 1
        os.pwrite(descriptor, changed, 0)
        assert read_report(descriptor) is None
    os.pwrite(descriptor, whole, 0)
    assert read_report(descriptor) == report(7)


@pytest.mark.skipif(
    not RELEASE_WHEEL.exists(), reason="the Debian package's sources leave out tests/nets"
)
def test_report_of_a_supervisor_of_version_1_0_0_is_read(descriptor: int) -> None:
    """
    An upgrade leaves the supervisor running, and its workers have the new version.
    """
    program = (
        "from pexservice.process.scoreboard import REASONS, Reload, Score, write\n"
        "counts = {reason: number for number, reason in enumerate(REASONS, 4)}\n"
        f"write({descriptor}, Score(1, 2, 3, counts, 4, Reload.FAILED, 'worker-12',"
        " 'worker-2', 1_795_000_000_123, 12_345, 'it was wrong'))\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(RELEASE_WHEEL)},
        pass_fds=[descriptor],
        check=True,
    )
    counts = {reason: number for number, reason in enumerate(END_REASONS, 4)}
    names = ("worker-12", "worker-2")
    assert read_report(descriptor) == SupervisorReport(
        *(1, 2, 3, counts, 4, Reload.FAILED, *names, 1_795_000_000_123, 12_345),
        "it was wrong",
        suspicious_ends=counts["store_failed"] + counts["killed"],
        possible_lock_holders=1,
        retry_opening=True,
    )


def test_longest_report_leaves_the_claim_alone(descriptor: int) -> None:
    claim = StoreClaim(descriptor)
    claim.take("1:2 1:3")
    long = "\N{SNOWMAN}\N{BUTTERFLY}\x1b" * 1000
    write_report(descriptor, SupervisorReport(note=long, problem=long))
    written = read_report(descriptor)
    assert written is not None
    assert long.startswith(written.note)
    assert len(written.problem) == MAX_TEXT_LENGTH
    assert claim.identity() == "1:2 1:3"


def test_record_that_is_too_long_is_not_written(descriptor: int) -> None:
    record = scoreboard.Record(0, 20)
    record.write(descriptor, b"twelve bytes")
    with pytest.raises(ValueError, match="a record of 21 bytes, of at most 20"):
        record.write(descriptor, b"and one more.")
    assert record.read(descriptor) == b"twelve bytes"


def test_first_claim_of_a_store_wins_until_its_owner_renews_it(descriptor: int) -> None:
    first, second = StoreClaim(descriptor), StoreClaim(descriptor)
    assert first.identity() is None
    assert first.take("1:2 1:3") == "1:2 1:3"
    assert second.take("1:2 1:4") == "1:2 1:3"
    second.renew("1:2 1:5", "1:2 1:6")
    assert first.identity() == "1:2 1:3"
    second.renew("1:2 1:3", "1:2 1:4")
    assert first.identity() == "1:2 1:4"


def test_losses_are_accepted_for_one_reload(descriptor: int) -> None:
    assert take_accepted_losses(descriptor) == []
    accept_losses(descriptor, ["journal"])
    assert take_accepted_losses(descriptor) == ["journal"]
    assert take_accepted_losses(descriptor) == []


def test_descriptor_that_is_no_file_is_an_error() -> None:
    with socket.socket() as no_file, pytest.raises(OSError, match="Illegal seek"):
        scoreboard.adopt(no_file.fileno())
