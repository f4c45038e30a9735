"""
How long a batch waits for company.
"""

from __future__ import annotations

from pexservice.gathering import COMMITS, FIRST_GUESS, LONGEST_WAIT, Gathering


def test_one_client_never_waits() -> None:
    """
    Who is alone is committed at once.
    """
    gathering = Gathering()
    assert gathering.ready(1, 0.0)
    gathering.committed(1, 0.0002)
    assert gathering.ready(1, 0.0)


def test_waits_for_as_many_as_last_time() -> None:
    """
    Ten shared the last batch, so ten are likely to come again.
    """
    gathering = Gathering()
    gathering.committed(10, 0.0002)
    assert not gathering.ready(9, 0.0001)
    assert gathering.ready(10, 0.0)
    assert gathering.ready(11, 0.0)


def test_gives_up_waiting() -> None:
    """
    After some usual commits' time whoever is there goes, and the next batch does not
    wait for those who stayed away.
    """
    gathering = Gathering()
    gathering.committed(10, FIRST_GUESS)
    assert not gathering.ready(1, 0.9 * COMMITS * FIRST_GUESS)
    assert gathering.ready(1, COMMITS * FIRST_GUESS)
    gathering.committed(1, FIRST_GUESS)
    assert gathering.ready(1, 0.0)


def test_a_slow_disk_does_not_make_anybody_wait_long() -> None:
    """
    The wait follows what commits usually take, up to a bound.
    """
    gathering = Gathering()
    for _ in range(100):
        gathering.committed(10, 0.0001)
    assert 0.00029 < gathering.longest_wait < 0.00031
    for _ in range(100):
        gathering.committed(10, 1.0)
    assert gathering.longest_wait == LONGEST_WAIT
