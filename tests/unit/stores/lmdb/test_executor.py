"""
The choice of where a blocking commit runs: inline or in a thread.
"""

from __future__ import annotations

import threading

from twisted.python.failure import Failure

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
from tests.support.fakes import Mailbox

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


def test_first_commits_run_inline() -> None:
    """
    The first one shows the speed of the disk.
    """
    policy = ExecutorPolicy()
    assert policy.inline
    policy.record_duration((MAX_USUAL_INLINE_SECONDS + STALL_SECONDS) / 2)
    assert policy.inline


def test_a_hang_goes_to_the_thread_and_short_calls_come_back() -> None:
    """
    Calls go to the thread after a hang, and come back when enough of them were short.
    """
    policy = slow()
    feed(policy, LITTLE, MIN_SHORT_COMMITS - 1)
    assert not policy.inline
    policy.record_duration(LITTLE)
    assert policy.inline


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


def test_the_longest_that_is_no_stall_and_no_hang() -> None:
    """
    Calls stay inline with commits that last exactly the bound of a stall or of a hang.

    Between short commits there may be any number of commits of exactly the bound of a
    stall, or one commit of exactly the bound of a hang.  With longer commits, calls do not
    stay inline.
    """

    def goes_on(seconds: float, times: int) -> bool:
        policy = ExecutorPolicy()
        for _ in range(times):
            policy.record_duration(seconds)
            feed(policy, LITTLE, 10)
        return policy.inline

    assert goes_on(STALL_SECONDS, 10)
    assert not goes_on(1.001 * STALL_SECONDS, 10)
    assert goes_on(HANG_SECONDS, 1)
    assert not goes_on(1.001 * HANG_SECONDS, 1)


def test_a_disk_that_is_usually_slow_goes_to_the_thread() -> None:
    """
    Calls go to the thread when they are usually slow, without any stall.
    """
    policy = ExecutorPolicy()
    feed(policy, 1.5 * MAX_USUAL_INLINE_SECONDS, 9)
    assert policy.inline
    feed(policy, 1.5 * MAX_USUAL_INLINE_SECONDS, 3)
    assert not policy.inline


def test_call_in_the_thread_is_measured_there_and_answered_in_the_reactor() -> None:
    mailbox, policy, ticks = (
        Mailbox(),
        slow(),
        iter([1.0, 1.0 + 2 * MAX_USUAL_INLINE_SECONDS]),
    )
    executor = CommitExecutor(mailbox, policy, monotonic=lambda: next(ticks))
    ran: list[threading.Thread] = []
    executor.run(threading.current_thread).addCallback(ran.append)
    assert ran == []
    mailbox.take()
    assert ran[0] is not threading.current_thread()
    executor.stop()
    assert not ran[0].is_alive()


def test_exception_of_a_call_in_the_thread_is_raised_as_it_is() -> None:
    mailbox = Mailbox()
    executor = CommitExecutor(mailbox, slow())
    failures: list[int | Failure] = []
    executor.run(lambda: 1 // 0).addBoth(failures.append)
    mailbox.take()
    (failure,) = failures
    assert isinstance(failure, Failure)
    assert failure.check(ZeroDivisionError)
    executor.stop()


def test_inline_call_has_run_when_run_returns() -> None:
    """
    In the caller's thread.
    """
    executor = CommitExecutor(Mailbox(), monotonic=lambda: 0.0)
    threads: list[threading.Thread] = []
    executor.run(threading.current_thread).addCallback(threads.append)
    assert threads == [threading.current_thread()]
    executor.stop()
