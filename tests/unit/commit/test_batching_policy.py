"""
The time that a batch waits for company.
"""

from __future__ import annotations

from pexservice.commit.batching_policy import (
    COMMITS,
    FIRST_GUESS,
    LONGEST_WAIT,
    BatchingPolicy,
)


def ready(
    gathering: BatchingPolicy, waiting: int, waited: float = 0.0, idle: float = 0.0
) -> bool:
    """
    Return whether a batch is ready after a turn that brought no more.
    """
    return gathering.ready(waiting, quiet=True, idle=idle, waited=waited)


def test_one_client_never_waits() -> None:
    """
    A step that comes alone is committed at once.
    """
    gathering = BatchingPolicy()
    assert ready(gathering, 1)
    gathering.committed(1, 0.0002)
    assert ready(gathering, 1)


def test_waits_for_as_many_as_last_time() -> None:
    """
    A batch waits for as many steps as shared the last one.

    As many are likely to come again.
    """
    gathering = BatchingPolicy()
    gathering.committed(10, 0.0002)
    assert not ready(gathering, 9, 0.0001)
    assert ready(gathering, 10)
    assert ready(gathering, 11)


def test_waits_while_more_arrive() -> None:
    """
    A batch grows as long as each turn brings another step.

    Connections that queue are accepted one a turn.  Without this rule, a batch of one would
    be followed by a batch of one for ever.
    """
    gathering = BatchingPolicy()
    assert not gathering.ready(5, quiet=False, idle=0.0, waited=FIRST_GUESS)
    assert gathering.ready(5, quiet=True, idle=0.0, waited=FIRST_GUESS)
    assert gathering.ready(5, quiet=False, idle=0.0, waited=COMMITS * FIRST_GUESS)


def test_does_not_idle_for_longer_than_a_commit_takes() -> None:
    """
    A batch does not idle for longer than a commit takes.

    Its steps could have been answered in that time.
    """
    gathering = BatchingPolicy()
    gathering.committed(10, FIRST_GUESS)
    assert not ready(gathering, 9, FIRST_GUESS, idle=0.9 * FIRST_GUESS)
    assert ready(gathering, 9, FIRST_GUESS, idle=FIRST_GUESS)


def test_gives_up_waiting() -> None:
    """
    After the time of some usual commits a batch goes with the steps that are there.

    The next batch does not wait for the clients that stayed away.
    """
    gathering = BatchingPolicy()
    gathering.committed(10, FIRST_GUESS)
    assert not ready(gathering, 1, 0.9 * COMMITS * FIRST_GUESS)
    assert ready(gathering, 1, COMMITS * FIRST_GUESS)
    gathering.committed(1, FIRST_GUESS)
    assert ready(gathering, 1)


def test_a_slow_disk_does_not_make_anybody_wait_long() -> None:
    """
    The longest wait follows the usual duration of commits, up to a bound.
    """
    gathering = BatchingPolicy()
    for _ in range(100):
        gathering.committed(10, 0.0001)
    assert 0.00029 < gathering.longest_wait < 0.00031
    for _ in range(100):
        gathering.committed(10, 1.0)
    assert gathering.longest_wait == LONGEST_WAIT
