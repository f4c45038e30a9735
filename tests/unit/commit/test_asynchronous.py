"""
Group commit with synchronous commit off: answers go out first, and commits follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import fail
from twisted.logger import LogEvent, capturedLogs, formatEvent

from pexservice.commit.asynchronous import DELAY_SECONDS, MAX_EARLY_RESPONSES
from pexservice.commit.interface import Outcome
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from tests.support.committer_bench import Bench
from tests.support.fakes import ABOVE_ALL, MemoryStore, now
from tests.support.steps import read


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with held commits that are answered before they end.
    """
    return Bench(synchronous=False)


def test_response_and_reads_do_not_wait_for_the_disk(bench: Bench) -> None:
    """
    The commit follows within C{DELAY_SECONDS}.
    """
    assert bench.submit() == [(Outcome.APPLIED, 1, 1)]
    assert bench.committer.visible.revision == 1
    assert now(read(bench.committer)).state.revision == 1
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


@pytest.mark.parametrize(("commit_seconds", "rest"), [(0.004, 0.006), (0.05, 0.0)])
def test_steps_of_a_commit_in_progress_wait_for_the_rest_of_the_delay_only(
    bench: Bench, commit_seconds: float, rest: float
) -> None:
    """
    The delay begins with the first step of a batch, not with the end of the last commit.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.submit()
    bench.clock.turn(commit_seconds)
    bench.store.finish()
    if rest:
        bench.clock.turn(rest - 0.001)
        assert bench.store.under_way is None
    bench.clock.turn(0.002)
    assert bench.store.under_way is not None


def test_hanging_commit_limits_the_steps_answered_early(bench: Bench) -> None:
    """
    At most C{MAX_EARLY_RESPONSES} more steps get a response before their commit.

    The others wait for it.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    assert all(bench.submit() for _ in range(MAX_EARLY_RESPONSES))
    waiting = bench.submit()
    bench.store.finish()
    assert waiting == []
    bench.clock.turn(DELAY_SECONDS)
    revision = MAX_EARLY_RESPONSES + 2
    assert bench.submit() == [(Outcome.APPLIED, revision + 1, revision + 1)]
    bench.store.finish()
    assert waiting == [(Outcome.APPLIED, revision, revision)]
    assert bench.sizes() == [1, MAX_EARLY_RESPONSES + 1]


@pytest.mark.parametrize("committing", [False, True])
@pytest.mark.parametrize("refusal", [None, Refusal("full")])
def test_replay_of_a_step_that_waits_for_its_commit_waits_too(
    bench: Bench, *, committing: bool, refusal: Refusal | None
) -> None:
    """
    Otherwise it would acknowledge a step beyond C{MAX_EARLY_RESPONSES}.
    """
    for _ in range(MAX_EARLY_RESPONSES):
        bench.submit()
    results = [bench.submit(key=b"k")]
    if committing:
        bench.clock.turn(DELAY_SECONDS)
    results += [bench.submit(key=b"k"), bench.submit(precondition=lambda _: False)]
    assert results == [[], [], []]
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish(refusal)
    revision = MAX_EARLY_RESPONSES + 1
    outcomes = [Outcome.APPLIED, Outcome.REPLAYED, Outcome.PRECONDITION_FAILED]
    assert results == [[refusal or (outcome, revision, revision)] for outcome in outcomes]


def test_refused_batch_ends_early_responses_until_one_is_taken(bench: Bench) -> None:
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    assert bench.counted() == {}
    bench.store.finish(Refusal("full"))
    assert bench.counted() == {"not_taken n": 1}
    assert bench.committer.visible.revision == 0
    with capturedLogs() as events:
        assert bench.submit() == []
        bench.turn()
        bench.store.finish(Refusal("full"))
    assert _lost_steps(events) == []
    waits = bench.submit()
    bench.turn()
    bench.store.finish()
    assert waits == [(Outcome.APPLIED, 1, 1)]
    assert bench.submit() == [(Outcome.APPLIED, 2, 2)]


def test_small_batch_that_a_nearly_full_disk_takes_begins_no_early_responses(
    bench: Bench,
) -> None:
    """
    Otherwise, again and again, the next larger batch would be refused, and its steps lost.
    """
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.store.finish(Refusal("full"))
    bench.store.shortage = Refusal("full")
    for revision, shortage in ((1, Refusal("full")), (2, None)):
        bench.store.shortage = shortage
        waits = bench.submit()
        assert waits == []
        bench.turn()
        bench.store.finish()
        assert waits == [(Outcome.APPLIED, revision, revision)]
    assert bench.submit() == [(Outcome.APPLIED, 3, 3)]


def _lost_steps(events: Sequence[LogEvent]) -> list[str]:
    lines = [formatEvent(event) for event in events]
    return [line for line in lines if "acknowledged steps are lost" in line]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            Refusal("full"),
            "full: 3 acknowledged steps are lost; responses wait for the disk until the"
            " store accepts steps",
        ),
        (
            StoreError("the disk failed"),
            "the store failed during a commit: 3 acknowledged steps are lost",
        ),
        (
            OutcomeUnknown("the disk failed"),
            "the store failed during a commit: up to 3 acknowledged steps are lost",
        ),
    ],
)
def test_acknowledged_steps_that_a_failed_commit_loses_are_logged(
    bench: Bench, error: Exception, line: str
) -> None:
    bench.submit()
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.submit()
    with capturedLogs() as events:
        bench.store.finish(error)
    assert _lost_steps(events) == [line]
    assert bench.committer.visible.revision == 0


def test_acknowledged_steps_that_are_lost_with_the_process_are_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A read finds damage during a commit, and the steps of the open batch are lost.
    """
    damaged = StoreDamaged("the store is damaged")
    monkeypatch.setattr(MemoryStore, "history", lambda *_: fail(damaged))
    bench.submit()
    bench.clock.turn(DELAY_SECONDS)
    bench.submit()
    with capturedLogs() as events:
        bench.committer.history(ABOVE_ALL, 1).addErrback(lambda _: None)
        bench.store.finish()
    assert _lost_steps(events) == ["the store is damaged: 1 acknowledged steps are lost"]
    assert bench.committer.durable.revision == 1
