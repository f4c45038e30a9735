"""
Where a blocking commit runs.
"""

from __future__ import annotations

import threading

from twisted.python.failure import Failure

from pexservice.stores.lmdb.executor import (
    HANG,
    LONGEST_PROOF,
    MAYBE_SHORT,
    OFTEN,
    PROOF,
    SHORT,
    STALL,
    Handover,
    Placement,
)
from tests.support.fakes import Mailbox

LITTLE = SHORT / 4


def feed(placement: Placement, seconds: float, times: int) -> None:
    """
    So many calls of the same duration.
    """
    for _ in range(times):
        placement.took(seconds)


def slow() -> Placement:
    """
    One that has seen a hang.
    """
    placement = Placement()
    placement.took(2 * HANG)
    return placement


def test_begins_inline() -> None:
    """
    The first commit shows what the disk is like.
    """
    placement = Placement()
    assert placement.inline
    placement.took((SHORT + STALL) / 2)
    assert placement.inline


def test_a_hang_goes_to_the_thread_and_short_calls_come_back() -> None:
    """
    A hang is paid once.
    """
    placement = slow()
    feed(placement, LITTLE, PROOF - 1)
    assert not placement.inline
    placement.took(LITTLE)
    assert placement.inline


def test_a_slow_disk_stays_in_the_thread() -> None:
    """
    One slow call begins the proof anew.
    """
    placement = slow()
    for _ in range(10):
        feed(placement, LITTLE, PROOF - 1)
        placement.took(1.1 * MAYBE_SHORT)
    assert not placement.inline


def test_each_return_makes_the_way_back_longer() -> None:
    """
    A disk that hangs again and again is tried ever less often, within a bound, and
    a long calm forgets it all.
    """
    placement = Placement()
    proofs = []
    for _ in range(12):
        placement.took(2 * HANG)
        count = 0
        while not placement.inline:
            placement.took(LITTLE)
            count += 1
        proofs.append(count)
    assert proofs == [min(PROOF * 2**n, LONGEST_PROOF) for n in range(12)]
    feed(placement, LITTLE, LONGEST_PROOF)
    placement.took(2 * HANG)
    feed(placement, LITTLE, PROOF)
    assert placement.inline


def test_a_stall_now_and_then_is_borne() -> None:
    """
    Every shared disk has some; often, they are too many.
    """
    placement = Placement()
    for _ in range(20):
        placement.took(2 * STALL)
        feed(placement, LITTLE, OFTEN)
        assert placement.inline
    for _ in range(2):
        placement.took(2 * STALL)
        feed(placement, LITTLE, OFTEN // 4)
        assert placement.inline
    placement.took(2 * STALL)
    assert not placement.inline


def test_a_disk_that_is_usually_slow_goes_to_the_thread() -> None:
    """
    Without any stall.
    """
    placement = Placement()
    feed(placement, 1.5 * SHORT, 9)
    assert placement.inline
    feed(placement, 1.5 * SHORT, 3)
    assert not placement.inline


def test_a_call_in_the_thread() -> None:
    """
    It runs elsewhere and answers here; its duration is measured there.
    """
    mailbox, placement, ticks = Mailbox(), slow(), iter([1.0, 1.0 + 2 * SHORT])
    handover = Handover(mailbox, placement, monotonic=lambda: next(ticks))
    ran: list[threading.Thread] = []
    handover.run(threading.current_thread).addCallback(ran.append)
    assert ran == []
    mailbox.take()
    assert ran[0] is not threading.current_thread()
    handover.stop()
    assert not ran[0].is_alive()


def test_a_failure_in_the_thread() -> None:
    """
    What the call raises comes back as it is.
    """
    mailbox = Mailbox()
    handover = Handover(mailbox, slow())
    failures: list[int | Failure] = []
    handover.run(lambda: 1 // 0).addBoth(failures.append)
    mailbox.take()
    (failure,) = failures
    assert isinstance(failure, Failure)
    assert failure.check(ZeroDivisionError)
    handover.stop()


def test_a_call_inline() -> None:
    """
    It has run, here, when the call returns.
    """
    handover = Handover(Mailbox(), Placement(), monotonic=lambda: 0.0)
    threads: list[threading.Thread] = []
    handover.run(threading.current_thread).addCallback(threads.append)
    assert threads == [threading.current_thread()]
    handover.stop()
