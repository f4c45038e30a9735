"""
The time that a batch waits for company.
"""

from __future__ import annotations

from pexservice.commit.group_commit import (
    INITIAL_COMMIT_SECONDS,
    MAX_WAIT_COMMITS,
    MAX_WAIT_SECONDS,
    BatchingPolicy,
)


def ready(
    policy: BatchingPolicy, waiting: int, waited: float = 0.0, idle: float = 0.0
) -> bool:
    """
    Return whether a batch is ready after a turn that brought no more.
    """
    return policy.is_ready(waiting, quiet=True, idle=idle, waited=waited)


def test_single_step_is_committed_at_once() -> None:
    policy = BatchingPolicy()
    assert ready(policy, 1)
    policy.record_commit(1, 0.0002)
    assert ready(policy, 1)


def test_waits_for_as_many_as_last_time() -> None:
    """
    A batch waits for as many steps as shared the last one.

    As many are likely to come again.
    """
    policy = BatchingPolicy()
    policy.record_commit(10, 0.0002)
    assert not ready(policy, 9, 0.0001)
    assert ready(policy, 10)
    assert ready(policy, 11)


def test_batch_grows_while_each_turn_brings_another_step() -> None:
    """
    Otherwise batches of one step would follow each other for ever.
    """
    policy = BatchingPolicy()
    assert not policy.is_ready(5, quiet=False, idle=0.0, waited=INITIAL_COMMIT_SECONDS)
    assert policy.is_ready(5, quiet=True, idle=0.0, waited=INITIAL_COMMIT_SECONDS)
    assert policy.is_ready(
        5, quiet=False, idle=0.0, waited=MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS
    )


def test_does_not_idle_for_longer_than_a_commit_takes() -> None:
    """
    A batch does not idle for longer than a commit takes.

    Its steps could have been answered in that time.
    """
    policy = BatchingPolicy()
    policy.record_commit(10, INITIAL_COMMIT_SECONDS)
    assert not ready(policy, 9, INITIAL_COMMIT_SECONDS, idle=0.9 * INITIAL_COMMIT_SECONDS)
    assert ready(policy, 9, INITIAL_COMMIT_SECONDS, idle=INITIAL_COMMIT_SECONDS)


def test_batch_is_ready_after_the_time_of_some_commits() -> None:
    """
    The next batch does not wait for the clients that stayed away.
    """
    policy = BatchingPolicy()
    policy.record_commit(10, INITIAL_COMMIT_SECONDS)
    assert not ready(policy, 1, 0.9 * MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS)
    assert ready(policy, 1, MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS)
    policy.record_commit(1, INITIAL_COMMIT_SECONDS)
    assert ready(policy, 1)


def test_a_slow_disk_does_not_make_anybody_wait_long() -> None:
    """
    The longest wait follows the usual duration of commits, up to a bound.
    """
    policy = BatchingPolicy()
    for _ in range(100):
        policy.record_commit(10, 0.0001)
    assert 0.00029 < policy.max_wait < 0.00031
    for _ in range(100):
        policy.record_commit(10, 1.0)
    assert policy.max_wait == MAX_WAIT_SECONDS
