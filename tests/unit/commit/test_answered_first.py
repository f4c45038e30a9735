"""
Group commit with synchronous commit off: answers go out first, and commits follow.
"""

from __future__ import annotations

import pytest

from pexservice.commit.committer import DELAY_SECONDS, MAX_EARLY_RESPONSES
from pexservice.commit.interface import Outcome
from pexservice.stores.interface import NotTaken
from tests.support.committer_bench import Bench


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with held commits that are answered before they end.
    """
    return Bench(synchronous=False)


def test_answers_at_once(bench: Bench) -> None:
    """
    The answer and the state that readers see do not wait for the disk.

    The commit follows within C{DELAY_SECONDS}.
    """
    assert bench.submit() == [(Outcome.APPLIED, 1, 1)]
    assert bench.committer.visible.revision == 1
    assert bench.submit(key=b"k") == [(Outcome.APPLIED, 2, 2)]
    assert bench.submit(key=b"k") == [(Outcome.REPLAYED, 2, 2)]
    assert bench.store.under_way is None
    bench.clock.turn(DELAY_SECONDS)
    assert bench.store.under_way is not None
    bench.submit()
    bench.store.finish()
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish()
    assert bench.sizes() == [2, 1]


def test_a_disk_that_hangs(bench: Bench) -> None:
    """
    While a commit hangs, only C{MAX_EARLY_RESPONSES} more steps are answered at once.

    They are answered ahead of the next commit, and the other steps wait for that
    commit.  Then answers come at once again.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    ahead = [bench.submit() for _ in range(MAX_EARLY_RESPONSES)]
    assert all(ahead)
    waiting = bench.submit()
    assert waiting == []
    bench.store.finish()
    assert waiting == []
    bench.clock.turn(DELAY_SECONDS)
    assert bench.submit() == [
        (Outcome.APPLIED, MAX_EARLY_RESPONSES + 3, MAX_EARLY_RESPONSES + 3)
    ]
    bench.store.finish()
    assert waiting == [(Outcome.APPLIED, MAX_EARLY_RESPONSES + 2, MAX_EARLY_RESPONSES + 2)]
    assert bench.sizes() == [1, MAX_EARLY_RESPONSES + 1]


def test_a_step_that_waited_is_refused_with_the_others(bench: Bench) -> None:
    """
    A step that waited for a batch is refused with the others if the batch is not taken.
    """
    for _ in range(MAX_EARLY_RESPONSES):
        bench.submit()
    waiting = bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish(NotTaken("full"))
    (refusal,) = waiting
    assert isinstance(refusal, NotTaken)


def test_drain(bench: Bench) -> None:
    """
    Draining leaves nothing uncommitted.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.submit()
    drained: list[None] = []
    bench.committer.drain().addCallback(drained.append)
    bench.store.finish()
    assert drained == []
    bench.store.finish()
    assert drained == [None]
    assert bench.sizes() == [1, 1]


def test_a_store_that_refuses(bench: Bench) -> None:
    """
    Once the store has refused answered steps, no step is answered before its commit.

    This ends when the store takes a batch again.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish(NotTaken("full"))
    assert bench.committer.visible.revision == 0
    waits = bench.submit()
    assert waits == []
    bench.turn()
    bench.store.finish()
    assert waits == [(Outcome.APPLIED, 1, 1)]
    assert bench.submit() == [(Outcome.APPLIED, 2, 2)]


def test_an_unknown_outcome(bench: Bench) -> None:
    """
    After a commit of unknown outcome the process is told to end.

    Readers are not shown steps that may be lost.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish(OSError("Input/output error"))
    assert len(bench.fatal) == 1
    assert bench.committer.visible.revision == 0
    assert isinstance(bench.submit()[0], NotTaken)


def test_counted_when_on_disk(bench: Bench) -> None:
    """
    Steps are counted when they are on disk, and not when they are answered.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    assert bench.counted() == {}
    bench.store.finish(NotTaken("full"))
    assert bench.counted() == {"not_taken n": 1}
