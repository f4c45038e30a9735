"""
The counts of the supervisor, in memory that its workers read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from pexservice.process import scoreboard
from pexservice.process.scoreboard import REASONS, Process, Reload, Score, StoreClaim


@pytest.fixture
def descriptor() -> Iterator[int]:
    """
    Provide the file descriptor of a scoreboard.
    """
    made = scoreboard.create()
    yield made
    os.close(made)


def score(number: int) -> Score:
    """
    Return a score whose counts are all C{number}.
    """
    return Score(number, number, number, dict.fromkeys(REASONS, number))


def test_a_written_score_is_read(descriptor: int) -> None:
    """
    A reader gets the last score that was written, with all counts in their places.
    """
    scoreboard.write(descriptor, score(1))
    counts = {reason: number for number, reason in enumerate(REASONS, 4)}
    names = ("worker-1234567", "worker-2")
    written = Score(1, 2, 3, counts, 4, Reload.FAILED, *names, 1_795_000_000_123, 12_345)
    scoreboard.write(descriptor, written)
    assert scoreboard.read(descriptor) == written


def test_a_reader(descriptor: int) -> None:
    """
    A reader returns the present score, or L{None} without a supervisor.
    """
    read = scoreboard.reader(descriptor)
    scoreboard.write(descriptor, score(3))
    assert read() == score(3)
    assert scoreboard.reader(None)() is None


def test_no_whole_record(descriptor: int) -> None:
    """
    A record that is absent, incomplete or of another kind is read as L{None}, not guessed.
    """
    assert scoreboard.read(descriptor) is None
    scoreboard.write(descriptor, score(7))
    whole = os.pread(descriptor, scoreboard._RECORD.size + 4, 0)
    for number in range(len(whole)):
        changed = bytearray(whole)
        changed[number] ^= 1
        os.pwrite(descriptor, changed, 0)
        assert scoreboard.read(descriptor) is None
    os.pwrite(descriptor, whole, 0)
    assert scoreboard.read(descriptor) == score(7)


def test_a_reader_beside_a_writer(descriptor: int) -> None:
    """
    A reader never sees half of one record and half of another.
    """
    scoreboard.write(descriptor, score(0))
    done = threading.Event()

    def go_on_writing() -> None:
        number = 0
        while not done.is_set():
            number += 1
            scoreboard.write(descriptor, score(number))

    writer = threading.Thread(target=go_on_writing)
    writer.start()
    try:
        seen = [scoreboard.read(descriptor) for _ in range(2000)]
    finally:
        done.set()
        writer.join()
    numbers = [each.failovers for each in seen if each is not None]
    assert numbers == sorted(numbers)
    assert [each for each in seen if each is not None] == [score(n) for n in numbers]


def test_addition_of_a_newer_supervisor_is_read(descriptor: int) -> None:
    """
    What the record of version 1.0.0 has no place for is read, too.
    """
    written = Score(
        possible_owners=2,
        problem="the disk of Zoë is not mounted",
        restart_pending=("store",),
        processes=(
            Process("supervisor", 4170, "running"),
            Process("worker-1", 9, "active"),
        ),
    )
    scoreboard.write(descriptor, written)
    assert scoreboard.read(descriptor) == written


def test_first_claim_of_a_store_wins(descriptor: int) -> None:
    """
    A store that was claimed stays claimed, until its owner has written it anew.
    """
    first, second = StoreClaim(descriptor), StoreClaim(os.dup(descriptor))
    assert first.identity() is None
    assert first.take("1:2 1:3", replace=False) == "1:2 1:3"
    assert second.take("1:2 1:4", replace=False) == "1:2 1:3"
    assert second.take("1:2 1:4", replace=True) == "1:2 1:4"
    assert first.identity() == "1:2 1:4"
    scoreboard.write(descriptor, Score())
    assert first.identity() == "1:2 1:4"
    os.close(second._descriptor)


def test_operator_accepts_a_change_once(descriptor: int) -> None:
    """
    What was accepted holds for one reload.
    """
    assert scoreboard.take_accepted(descriptor) == []
    scoreboard.accept(descriptor, ["journal"])
    assert scoreboard.take_accepted(descriptor) == ["journal"]
    assert scoreboard.take_accepted(descriptor) == []


def test_something_else() -> None:
    """
    A file descriptor that is no file is an error when the worker starts.
    """
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            scoreboard.inherit(reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_our_children_do_not_inherit_it(descriptor: int) -> None:
    """
    The children of a worker do not inherit the scoreboard.
    """
    os.set_inheritable(descriptor, True)  # noqa: FBT003 its only argument
    scoreboard.inherit(descriptor)
    assert not os.get_inheritable(descriptor)
