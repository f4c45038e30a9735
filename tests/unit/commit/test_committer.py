"""
Group commit, pumped one step at a time.
"""

from __future__ import annotations

import math

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs

from pexservice.commit.batching_policy import MAX_WAIT_SECONDS
from pexservice.commit.committer import REFUSAL_LOG_INTERVAL_SECONDS, Committer
from pexservice.commit.interface import CommitterBug, KeyReused, Outcome, Step
from pexservice.core.cursor import Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from tests.support.committer_bench import Bench
from tests.support.fakes import ABOVE_ALL, MemoryStore, Turns, collected, now
from tests.support.steps import CallingWaiter, Response, read, submit

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with held commits, synchronous.
    """
    return Bench()


def kinds(*results: list[object]) -> list[type]:
    return [type(outcome) for (outcome,) in results]


def begin_stop(bench: Bench) -> list[None]:
    """
    Stop the committer.

    @return: a list that gets C{None} when the committer has stopped.
    """
    return collected(Deferred.fromCoroutine(bench.committer.stop()))


def test_no_response_or_read_shows_a_step_before_the_disk_has_it(bench: Bench) -> None:
    results = bench.submit()
    bench.turn()
    assert results == []
    assert now(read(bench.committer)).state.revision == 0
    assert bench.committer.visible.revision == 0
    bench.store.finish()
    assert results == [(Outcome.APPLIED, 1, 1)]
    assert now(read(bench.committer)).state.revision == 1
    assert bench.committer.visible.revision == 1
    assert bench.store.batches[0].time_ns == 7


def test_steps_of_one_turn_share_a_commit_and_get_their_responses_in_order(
    bench: Bench,
) -> None:
    responses: list[Response] = []
    waiter = CallingWaiter(responses.append, print)
    for transition in (NEXT, NEXT, NEXT, PREVIOUS, RESET):
        bench.committer.step(Step(transition), waiter)
    bench.turn()
    assert bench.store.under_way is not None
    assert bench.store.under_way.transitions == b"nnnpr"
    bench.store.finish()
    cursors = [state.cursor for _, state in responses]
    assert cursors == [(1, 1), (2, 2), (3, 3), (4, 2), (5, 0)]


def test_steps_arriving_during_a_commit_share_the_next_one(bench: Bench) -> None:
    bench.submit()
    bench.turn()
    for _ in range(5):
        bench.submit()
        bench.turn()
    bench.store.finish()
    bench.turn()
    bench.store.finish()
    assert bench.sizes() == [1, 5]


def test_batch_waits_some_turns_for_as_many_steps_as_the_last_one(bench: Bench) -> None:
    bench.commit(4)
    for _ in range(3):
        bench.submit()
    for _ in range(10):
        bench.turn()
    assert bench.store.under_way is None
    bench.submit()
    bench.turn()
    bench.store.finish()
    bench.submit()
    bench.turn()
    assert bench.store.under_way is None
    bench.clock.turn(MAX_WAIT_SECONDS)
    bench.store.finish()
    assert bench.sizes() == [4, 4, 1]


def test_pipeline_neither_nests_commits_nor_delays_a_request() -> None:
    """
    In a pipeline, each response lets the next request in.
    """
    bench = Bench(held=False)
    left = 2000

    def again(_: Response) -> None:
        nonlocal left
        left -= 1
        if left:
            bench.committer.step(Step(NEXT), waiter)

    failed: list[Exception] = []
    waiter = CallingWaiter(again, failed.append)
    bench.committer.step(Step(NEXT), waiter)
    for _ in range(2000):
        bench.turn()
    assert (left, failed) == (0, [])
    assert bench.committer.durable.position == 2000


def test_refused_batch_and_what_depends_on_it_never_happened(bench: Bench) -> None:
    """
    Its waiting requests are refused too, and the next step starts from the durable state.
    """
    bench.commit()
    results = [
        bench.submit(key=b"a"),
        bench.submit(RESET, key=b"a"),
        bench.submit(precondition=lambda _: False),
    ]
    bench.turn()
    results.append(bench.submit())
    assert results == [[]] * 4
    bench.store.finish(Refusal("full"))
    assert kinds(*results) == [Refusal] * 4
    assert bench.fatal == []
    after = bench.submit(key=b"a")
    bench.turn()
    bench.store.finish()
    assert after == [(Outcome.APPLIED, 2, 2)]


DAMAGED = StoreDamaged("the store /s is damaged")


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (OutcomeUnknown("Input/output error"), OutcomeUnknown, "the store failed"),
        (RuntimeError("a bug in the store"), OutcomeUnknown, "the store failed"),
        (StoreError("the store /s cannot be used"), Refusal, "the store failed"),
        (DAMAGED, Refusal, "the store is damaged"),
    ],
)
def test_failed_commit_ends_the_process_and_every_other_step_is_refused(
    bench: Bench, error: Exception, kind: type[Exception], reason: str
) -> None:
    """
    The outcome of the batch is unknown if the store may have it.
    """
    results = [bench.submit()]
    bench.turn()
    results.append(bench.submit())
    bench.store.finish(error)
    results += [bench.submit(), bench.submit(key=b"k")]
    assert kinds(*results) == [kind, Refusal, Refusal, Refusal]
    assert [failure.value for failure in bench.fatal] == [error]
    assert bench.committer.visible.revision == 0
    assert reason in str(bench.committer.step_refusal)


def test_exception_of_the_store_ends_the_commit_and_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStore, "commit", lambda *_: 1 / 0)
    results = bench.submit()
    bench.turn()
    assert kinds(results) == [OutcomeUnknown]
    assert [failure.type for failure in bench.fatal] == [ZeroDivisionError]
    now(bench.committer.wait_for_commit())
    assert begin_stop(bench) == [None]


def test_bug_after_a_commit_ends_the_process_and_refuses_the_open_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The open batch may follow steps that did not happen, so it is not written.
    """
    monkeypatch.setattr(bench.committer.counts, "count_commit", lambda *_: 1 / 0)
    bench.submit()
    bench.turn()
    built_on_it = bench.submit()
    waits = collected(bench.committer.wait_for_commit())
    assert waits == []
    bench.store.finish()
    assert waits == [None]
    assert [failure.type for failure in bench.fatal] == [CommitterBug]
    assert kinds(built_on_it) == [Refusal]
    bench.turn()
    assert begin_stop(bench) == [None]
    assert bench.sizes() == [1]


def test_damage_that_a_read_finds_ends_the_process_after_the_commit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The steps of the open batch are surely not stored.
    """
    monkeypatch.setattr(MemoryStore, "history", lambda *_: fail(DAMAGED))
    committing = bench.submit()
    bench.turn()
    refused = [
        bench.submit(),
        collected(bench.committer.history(ABOVE_ALL, 10)),
        bench.submit(),
    ]
    bench.store.finish()
    bench.clock.turn(MAX_WAIT_SECONDS)
    assert committing == [(Outcome.APPLIED, 1, 1)]
    assert kinds(*refused) == [Refusal] * 3
    assert [failure.value for failure in bench.fatal] == [DAMAGED]
    assert bench.sizes() == [1]
    assert begin_stop(bench) == [None]


def test_second_of_two_steps_with_one_precondition_fails(bench: Bench) -> None:
    """
    Its response waits until the state in it is durable.
    """
    results = [bench.submit(precondition=lambda state: state.revision == 0) for _ in "12"]
    bench.turn()
    results.append(bench.submit(precondition=lambda state: state.revision == 0))
    assert results == [[], [], []]
    bench.store.finish()
    unmet = [(Outcome.PRECONDITION_FAILED, 1, 1)]
    assert results == [[(Outcome.APPLIED, 1, 1)], unmet, unmet]


def test_repeated_key_gets_the_first_outcome_wherever_its_first_use_is(
    bench: Bench,
) -> None:
    """
    In the open batch, in the committing batch, or on the disk.

    The precondition need not be met again.  Another transition is refused.
    """

    def submit_again() -> None:
        replays.append(bench.submit(key=b"k", precondition=lambda _: False))
        others.append(bench.submit(RESET, key=b"k"))

    replays: list[list[object]] = []
    others: list[list[object]] = []
    first = bench.submit(key=b"k", precondition=lambda state: state.revision == 0)
    submit_again()
    bench.turn()
    submit_again()
    assert [first, *replays, *others] == [[]] * 5
    bench.store.finish()
    submit_again()
    assert first == [(Outcome.APPLIED, 1, 1)]
    assert replays == [[(Outcome.REPLAYED, 1, 1)]] * 3
    assert kinds(*others) == [KeyReused] * 3
    assert bench.committer._latest.revision == 1
    # Far along the sequence, computing a state takes milliseconds, so it is kept.
    states = [now(submit(bench.committer, Step(NEXT, b"k"))).state for _ in range(2)]
    assert states[0].term is states[1].term


def test_key_of_a_step_that_was_not_applied_is_free(bench: Bench) -> None:
    assert bench.submit(key=b"k", precondition=lambda _: False) == [
        (Outcome.PRECONDITION_FAILED, 0, 0)
    ]
    again = bench.submit(key=b"k")
    bench.turn()
    bench.store.finish()
    assert again == [(Outcome.APPLIED, 1, 1)]


def test_stop_commits_accepted_steps_refuses_later_ones_and_closes_the_store(
    bench: Bench,
) -> None:
    accepted = [bench.submit()]
    bench.turn()
    accepted.append(bench.submit())
    stopped = begin_stop(bench)
    assert kinds(bench.submit()) == [Refusal]
    bench.store.finish()
    assert (stopped, bench.store.closed) == ([], False)
    bench.store.finish()
    assert (stopped, bench.store.closed) == ([None], True)
    assert accepted == [[(Outcome.APPLIED, 1, 1)], [(Outcome.APPLIED, 2, 2)]]


def test_stop_commits_a_waiting_batch_at_once(bench: Bench) -> None:
    bench.commit(4)
    alone = bench.submit()
    stopped = begin_stop(bench)
    bench.store.finish()
    assert (alone, stopped) == ([(Outcome.APPLIED, 5, 5)], [None])


def test_refusals_have_the_reason_before_the_start_and_on_a_full_disk() -> None:
    def refusals() -> tuple[str, str]:
        return str(committer.step_refusal), str(committer.read_refusal)

    store = MemoryStore()
    committer = Committer(store, Turns(), on_fatal_failure=print)
    assert refusals() == ("the cursor is not read yet", "the cursor is not read yet")
    committer.refuse_all("the store is away")
    assert refusals() == ("the store is away", "the store is away")
    with pytest.raises(Refusal, match="the store is away"):
        now(read(committer))
    now(Deferred.fromCoroutine(committer.start()))
    assert refusals() == ("None", "None")
    store.shortage = Refusal("disk full")
    assert refusals() == ("disk full", "None")


def test_outcome_is_counted_when_it_is_known(bench: Bench) -> None:
    bench.submit(NEXT, key=b"k")
    bench.submit(RESET)
    bench.submit(NEXT, key=b"k")
    bench.submit(PREVIOUS, precondition=lambda _: False)
    bench.turn()
    assert bench.counted() == {}
    bench.store.finish()
    moved = {"moved n": 1, "moved r": 1}
    assert bench.counted() == {**moved, "replayed n": 1, "unmet p": 1}
    # An outcome that waits for nothing is counted at once.
    bench.submit(NEXT, key=b"k")
    bench.submit(PREVIOUS, precondition=lambda _: False)
    assert bench.counted() == {**moved, "replayed n": 2, "unmet p": 2}
    assert [list(bench.committer.counts.sizes.cumulative())[n] for n in (0, 1, -1)] == [
        *((1.0, 0), (2.0, 1), (math.inf, 1)),
    ]


@pytest.mark.parametrize(
    ("failure", "word"),
    [(Refusal("full"), "not_taken"), (OutcomeUnknown("EIO"), "unknown")],
)
def test_failed_batch_is_counted_with_its_repeats_and_followers(
    bench: Bench, failure: Exception, word: str
) -> None:
    bench.submit(NEXT, key=b"k")
    bench.submit(NEXT, key=b"k")
    bench.turn()
    bench.submit(RESET)
    bench.store.finish(failure)
    # After the fatal failure nothing more is taken.
    bench.store.held = False
    bench.submit(PREVIOUS)
    bench.turn()
    last = "moved p" if word == "not_taken" else "not_taken p"
    assert bench.counted() == {f"{word} n": 2, "not_taken r": 1, last: 1}


def test_number_of_refused_steps_is_logged_once_a_second() -> None:
    bench = Bench(held=False)
    bench.store.failure = Refusal("disk full")
    with capturedLogs() as events:
        for _ in range(5):
            bench.submit()
            bench.turn()
        bench.clock.turn(REFUSAL_LOG_INTERVAL_SECONDS)
        bench.submit()
        bench.turn()
    assert [event["count"] for event in events] == [1, 5]


def test_waiter_that_raises_is_logged_and_the_others_are_called(bench: Bench) -> None:

    def raises(_: object, /) -> None:
        raise ZeroDivisionError

    bench.committer.step(Step(NEXT), CallingWaiter(raises, raises))
    after = bench.submit()
    bench.turn()
    bench.store.finish()
    assert after == [(Outcome.APPLIED, 2, 2)]
    assert not bench.fatal
