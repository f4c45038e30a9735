"""
The time that a batch waits for more steps.
"""

from __future__ import annotations

from pexservice.commit.batching_policy import (
    INITIAL_COMMIT_SECONDS,
    MAX_WAIT_COMMITS,
    MAX_WAIT_SECONDS,
    BatchingPolicy,
)


def is_ready_when_quiet(
    policy: BatchingPolicy, steps: int, waited: float = 0.0, quiet: float = 0.0
) -> bool:
    """
    Return whether a batch of C{steps} is ready after an iteration that added none of them.

    @param waited: how long ago the first step arrived.
    @param quiet: the duration of the iterations that added no step.
    """
    policy.begin_batch(0.0)
    policy.end_iteration(steps, waited - quiet)
    policy.end_iteration(steps, waited)
    return policy.is_ready(waited)


def is_ready_when_growing(policy: BatchingPolicy, steps: int, waited: float) -> bool:
    """
    Return whether a batch of C{steps} is ready after an iteration that added one of them.
    """
    policy.begin_batch(0.0)
    policy.end_iteration(steps - 1, waited)
    policy.end_iteration(steps, waited)
    return policy.is_ready(waited)


def test_batch_waits_for_as_many_steps_as_the_last_batch_had() -> None:
    policy = BatchingPolicy()
    assert is_ready_when_quiet(policy, 1)
    policy.learn(10, 0.0002)
    assert not is_ready_when_quiet(policy, 9, 0.0001)
    assert is_ready_when_quiet(policy, 10)
    assert is_ready_when_quiet(policy, 11)


def test_batch_grows_while_each_iteration_adds_a_step() -> None:
    """
    Otherwise batches of one step would follow each other for ever.
    """
    policy = BatchingPolicy()
    assert not is_ready_when_growing(policy, 5, INITIAL_COMMIT_SECONDS)
    assert is_ready_when_quiet(policy, 5, INITIAL_COMMIT_SECONDS)
    assert is_ready_when_growing(policy, 5, MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS)


def test_batch_waits_in_quiet_iterations_for_no_longer_than_a_commit_takes() -> None:
    """
    In that time, its steps could have been committed.
    """
    policy = BatchingPolicy()
    policy.learn(10, INITIAL_COMMIT_SECONDS)
    waited = 2 * INITIAL_COMMIT_SECONDS
    assert not is_ready_when_quiet(policy, 9, waited, quiet=0.9 * INITIAL_COMMIT_SECONDS)
    assert is_ready_when_quiet(policy, 9, waited, quiet=1.1 * INITIAL_COMMIT_SECONDS)


def test_quiet_iterations_are_added_up_for_each_batch() -> None:
    policy = BatchingPolicy()
    policy.learn(10, INITIAL_COMMIT_SECONDS)
    policy.begin_batch(0.0)
    policy.end_iteration(1, 0.0)
    policy.end_iteration(1, 0.6 * INITIAL_COMMIT_SECONDS)
    policy.end_iteration(2, 0.6 * INITIAL_COMMIT_SECONDS)
    assert not policy.is_ready(0.6 * INITIAL_COMMIT_SECONDS)
    policy.end_iteration(2, 1.2 * INITIAL_COMMIT_SECONDS)
    assert policy.is_ready(1.2 * INITIAL_COMMIT_SECONDS)
    assert not is_ready_when_quiet(policy, 2)


def test_batch_is_ready_after_the_time_of_some_commits() -> None:
    """
    The next batch does not wait for the clients that stayed away.
    """
    policy = BatchingPolicy()
    policy.learn(10, INITIAL_COMMIT_SECONDS)
    assert not is_ready_when_quiet(
        policy, 1, 0.9 * MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS
    )
    assert is_ready_when_quiet(policy, 1, MAX_WAIT_COMMITS * INITIAL_COMMIT_SECONDS)
    policy.learn(1, INITIAL_COMMIT_SECONDS)
    assert is_ready_when_quiet(policy, 1)


def test_longest_wait_follows_the_duration_of_commits_up_to_a_limit() -> None:
    policy = BatchingPolicy()
    for _ in range(100):
        policy.learn(10, 0.0001)
    assert 0.00029 < policy.max_wait < 0.00031
    for _ in range(100):
        policy.learn(10, 1.0)
    assert policy.max_wait == MAX_WAIT_SECONDS
