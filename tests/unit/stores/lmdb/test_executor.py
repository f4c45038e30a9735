"""
The choice of where a blocking commit runs: inline or in a thread.
"""

from __future__ import annotations

import threading

import pytest

from pexservice.stores.lmdb.executor import (
    HANG_SECONDS,
    MAX_SHORT_COMMITS,
    MAX_SHORT_IN_THREAD_SECONDS,
    MAX_USUAL_INLINE_SECONDS,
    MIN_SHORT_COMMITS,
    STALL_SECONDS,
    STALL_WINDOW_COMMITS,
    CommitExecutor,
    ExecutorPolicy,
)
from tests.support.fakes import Mailbox, now

LITTLE = MAX_USUAL_INLINE_SECONDS / 4


def feed(policy: ExecutorPolicy, seconds: float, times: int) -> None:
    """
    Tell C{policy} of C{times} calls that took C{seconds} each.
    """
    for _ in range(times):
        policy.record_duration(seconds)


def slow() -> ExecutorPolicy:
    """
    Return a policy that has seen a hang.
    """
    policy = ExecutorPolicy()
    policy.record_duration(2 * HANG_SECONDS)
    return policy


def test_a_slow_disk_stays_in_the_thread() -> None:
    """
    After a slow call in the thread, the proof that calls are short begins again.
    """
    policy = slow()
    for _ in range(10):
        feed(policy, LITTLE, MIN_SHORT_COMMITS - 1)
        policy.record_duration(1.1 * MAX_SHORT_IN_THREAD_SECONDS)
    assert not policy.inline


def test_each_return_makes_the_way_back_longer() -> None:
    """
    A disk that hangs again and again is tried inline ever less often, within a bound.

    A long calm makes the policy forget all hangs.
    """
    policy = ExecutorPolicy()
    proofs = []
    for _ in range(12):
        policy.record_duration(2 * HANG_SECONDS)
        count = 0
        while not policy.inline:
            policy.record_duration(LITTLE)
            count += 1
        proofs.append(count)
    assert proofs == [min(MIN_SHORT_COMMITS * 2**n, MAX_SHORT_COMMITS) for n in range(12)]
    feed(policy, LITTLE, MAX_SHORT_COMMITS)
    policy.record_duration(2 * HANG_SECONDS)
    feed(policy, LITTLE, MIN_SHORT_COMMITS)
    assert policy.inline


def test_rare_slow_calls_keep_commits_in_the_reactor() -> None:
    """
    Calls stay inline with a stall now and then, but not with frequent stalls.

    Every shared disk has a stall now and then.
    """
    policy = ExecutorPolicy()
    for _ in range(20):
        policy.record_duration(2 * STALL_SECONDS)
        feed(policy, LITTLE, STALL_WINDOW_COMMITS)
        assert policy.inline
    for _ in range(2):
        policy.record_duration(2 * STALL_SECONDS)
        feed(policy, LITTLE, STALL_WINDOW_COMMITS // 4)
        assert policy.inline
    policy.record_duration(2 * STALL_SECONDS)
    assert not policy.inline


@pytest.mark.parametrize(("seconds", "times"), [(STALL_SECONDS, 10), (HANG_SECONDS, 1)])
def test_commits_of_exactly_the_bound_of_a_stall_or_of_a_hang_stay_inline(
    seconds: float, times: int
) -> None:
    """
    Longer ones do not.
    """
    for factor, inline in ((1, True), (1.001, False)):
        policy = ExecutorPolicy()
        for _ in range(times):
            policy.record_duration(factor * seconds)
            feed(policy, LITTLE, 10)
        assert policy.inline is inline


def test_a_disk_that_is_usually_slow_goes_to_the_thread() -> None:
    """
    Calls go to the thread when they are usually slow, without any stall.
    """
    policy = ExecutorPolicy()
    assert policy.inline
    feed(policy, 1.5 * MAX_USUAL_INLINE_SECONDS, 9)
    assert policy.inline
    feed(policy, 1.5 * MAX_USUAL_INLINE_SECONDS, 3)
    assert not policy.inline


def test_call_in_the_thread_is_measured_there_and_answered_in_the_reactor() -> None:
    mailbox, ticks = Mailbox(), iter([1.0, 1.0 + 2 * MAX_USUAL_INLINE_SECONDS])
    executor = CommitExecutor(mailbox, slow(), monotonic=lambda: next(ticks))
    ran = executor.run(threading.current_thread)
    assert not ran.called
    mailbox.take()
    thread = now(ran)
    assert thread is not threading.current_thread()
    executor.stop()
    assert not thread.is_alive()


def test_exception_of_a_call_in_the_thread_is_raised_as_it_is() -> None:
    mailbox = Mailbox()
    executor = CommitExecutor(mailbox, slow())
    failed = executor.run(lambda: 1 // 0)
    mailbox.take()
    with pytest.raises(ZeroDivisionError):
        now(failed)
    executor.stop()


def test_inline_call_has_run_in_this_thread_when_run_returns() -> None:
    executor = CommitExecutor(Mailbox(), monotonic=lambda: 0.0)
    assert now(executor.run(threading.current_thread)) is threading.current_thread()
    executor.stop()
