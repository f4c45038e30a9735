"""
Group commit, pumped one step at a time.
"""

from __future__ import annotations

import math
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred, fail
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from pexservice.commit.batching_policy import MAX_WAIT_SECONDS
from pexservice.commit.committer import REFUSAL_LOG_INTERVAL_SECONDS, Committer
from pexservice.commit.interface import (
    CommitterBug,
    ICommitter,
    KeyReused,
    Outcome,
    Step,
)
from pexservice.core.cursor import Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from pexservice.stores.interface import Batch, HistoryEntry
from tests.support.committer_bench import Bench
from tests.support.fakes import ABOVE_ALL, MemoryStore, Turns, now
from tests.support.steps import CallingWaiter, Response, submit

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with held commits, synchronous.
    """
    return Bench()


def test_committer_provides_its_interfaces(bench: Bench) -> None:
    assert verifyObject(ICommitter, bench.committer)


def test_no_response_or_read_shows_a_step_before_the_disk_has_it(bench: Bench) -> None:
    results = bench.submit()
    bench.turn()
    assert results == []
    assert bench.committer.visible.revision == 0
    bench.store.finish()
    assert results == [(Outcome.APPLIED, 1, 1)]
    assert bench.committer.visible.revision == 1
    assert bench.store.batches[0].time_ns == 7


def test_steps_of_one_turn_share_a_commit(bench: Bench) -> None:
    """
    Each gets its response, in order.
    """
    results = [
        bench.submit(transition) for transition in (NEXT, NEXT, NEXT, PREVIOUS, RESET)
    ]
    bench.turn()
    assert bench.store.under_way is not None
    assert bench.store.under_way.transitions == b"nnnpr"
    bench.store.finish()
    assert results == [[(Outcome.APPLIED, n + 1, p)] for n, p in enumerate((1, 2, 3, 2, 0))]
    assert bench.order == [1, 2, 3, 4, 5]


def test_steps_arriving_during_a_commit_share_the_next_one(bench: Bench) -> None:
    bench.submit()
    bench.turn()
    for _ in range(5):
        bench.submit()
        bench.turn()
    bench.store.finish()
    bench.turn()
    assert bench.store.under_way is not None
    assert bench.store.under_way.transitions == b"nnnnn"
    bench.store.finish()
    assert bench.sizes() == [1, 5]
    assert bench.order == [1, 2, 3, 4, 5, 6]


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
    A pipeline neither nests commits nor makes a request wait.

    In a pipeline each answer lets the next request in.
    """
    bench = Bench(held=False)
    left = 5000

    def again(_: Response) -> None:
        nonlocal left
        left -= 1
        if left:
            bench.committer.step(Step(NEXT), waiter)

    failed: list[Exception] = []
    waiter = CallingWaiter(again, failed.append)
    bench.committer.step(Step(NEXT), waiter)
    for _ in range(5000):
        bench.turn()
    assert (left, failed) == (0, [])
    assert bench.committer.durable.position == 5000


def test_refused_batch_and_the_steps_built_on_it_never_happened(bench: Bench) -> None:
    """
    The next step starts from the durable state.
    """
    bench.commit(2)
    results = [bench.submit(key=b"a"), bench.submit()]
    bench.turn()
    built_on_it = bench.submit()
    bench.store.finish(Refusal("full"))
    assert [type(outcomes[0]) for outcomes in (*results, built_on_it)] == [Refusal] * 3
    assert bench.fatal == []
    after = bench.submit(key=b"a")
    bench.turn()
    bench.clock.turn(MAX_WAIT_SECONDS)
    bench.store.finish()
    assert after == [(Outcome.APPLIED, 3, 3)]


@pytest.mark.parametrize(
    "error", [OutcomeUnknown("Input/output error"), RuntimeError("a bug in the store")]
)
def test_commit_with_unknown_outcome_stops_the_committer(
    bench: Bench, error: Exception
) -> None:
    """
    Its waiters learn that the outcome is unknown.

    The steps built on it are not stored.  The process must end.
    """
    results = bench.submit()
    bench.turn()
    built_on_it = bench.submit()
    bench.store.finish(error)
    assert [type(outcome) for outcome in results + built_on_it] == [OutcomeUnknown, Refusal]
    assert [failure.value for failure in bench.fatal] == [error]
    late, keyed = bench.submit(), bench.submit(key=b"k")
    assert [type(outcome) for outcome in late + keyed] == [Refusal, Refusal]
    assert bench.committer.visible.revision == 0


DAMAGED = StoreDamaged("the store /s is damaged")


def test_damage_found_by_a_commit_ends_the_process(bench: Bench) -> None:
    """
    The batch and the steps built on it did not happen, and nothing more is accepted.
    """
    results = bench.submit()
    bench.turn()
    built_on_it = bench.submit()
    bench.store.finish(DAMAGED)
    assert [type(outcome) for outcome in results + built_on_it] == [Refusal, Refusal]
    assert [failure.value for failure in bench.fatal] == [DAMAGED]
    assert [type(outcome) for outcome in bench.submit()] == [Refusal]
    assert "damaged" in str(bench.committer.step_refusal)


def test_store_that_fails_before_it_writes_ends_the_process(bench: Bench) -> None:
    """
    The clients learn that their steps did not happen.
    """
    error = StoreError("the store /s cannot be used")
    results = bench.submit()
    bench.turn()
    bench.store.finish(error)
    assert [type(outcome) for outcome in results + bench.submit()] == [Refusal, Refusal]
    assert [failure.value for failure in bench.fatal] == [error]
    assert "the store failed" in str(bench.committer.step_refusal)


class BrokenStore(MemoryStore):
    """
    A store whose C{commit} raises instead of returning a C{Deferred}.
    """

    def commit(self, batch: Batch) -> Deferred[None]:
        raise ZeroDivisionError


def test_exception_of_the_store_ends_the_commit_and_the_process() -> None:
    bench = Bench(store=BrokenStore())
    results = bench.submit()
    bench.turn()
    assert [type(outcome) for outcome in results] == [OutcomeUnknown]
    assert [failure.type for failure in bench.fatal] == [ZeroDivisionError]
    now(bench.committer.wait_for_commit())
    now(Deferred.fromCoroutine(bench.committer.stop()))


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
    waits: list[None] = []
    bench.committer.wait_for_commit().addCallback(waits.append)
    bench.store.finish()
    assert waits == [None]
    assert [failure.type for failure in bench.fatal] == [CommitterBug]
    assert [type(outcome) for outcome in built_on_it] == [Refusal]
    bench.turn()
    now(Deferred.fromCoroutine(bench.committer.stop()))
    assert [batch.transitions for batch in bench.store.batches] == [b"n"]


class UnreadableStore(MemoryStore):
    """
    A store that turns out to be damaged when it is read.
    """

    def history(self, before: int | None, limit: int) -> Deferred[list[HistoryEntry]]:
        """
        Fail with the damage.
        """
        return fail(DAMAGED)


def test_damage_that_a_read_finds_ends_the_process_after_the_commit() -> None:
    """
    Steps in the open batch are surely not taken.
    """
    bench = Bench(store=UnreadableStore(held=True))
    under_way = bench.submit()
    bench.turn()
    gathering = bench.submit()
    errors: list[object] = []
    bench.committer.history(ABOVE_ALL, 10).addErrback(
        lambda failure: errors.append(failure.value)
    )
    assert [type(error) for error in errors] == [Refusal]
    assert [failure.value for failure in bench.fatal] == [DAMAGED]
    assert [type(outcome) for outcome in bench.submit()] == [Refusal]
    bench.store.finish()
    bench.clock.turn(MAX_WAIT_SECONDS)
    assert under_way == [(Outcome.APPLIED, 1, 1)]
    assert [type(outcome) for outcome in gathering] == [Refusal]
    assert [batch.transitions for batch in bench.store.batches] == [b"n"]
    now(Deferred.fromCoroutine(bench.committer.stop()))


def test_step_with_unmet_precondition_gets_the_present_state(bench: Bench) -> None:
    bench.commit(3)
    met = bench.submit(precondition=lambda state: state.revision == 3)
    bench.clock.turn(MAX_WAIT_SECONDS)
    bench.store.finish()
    assert met == [(Outcome.APPLIED, 4, 4)]
    assert bench.submit(precondition=lambda _: False) == [
        (Outcome.PRECONDITION_FAILED, 4, 4)
    ]
    assert bench.latest.revision == 4


def test_second_of_two_steps_with_one_precondition_fails(bench: Bench) -> None:
    """
    Its response waits until the state in it is durable.
    """
    results = [bench.submit(precondition=lambda state: state.revision == 0) for _ in "12"]
    bench.turn()
    late = bench.submit(precondition=lambda state: state.revision == 0)
    assert [*results, late] == [[], [], []]
    bench.store.finish()
    assert results == [[(Outcome.APPLIED, 1, 1)], [(Outcome.PRECONDITION_FAILED, 1, 1)]]
    assert late == [(Outcome.PRECONDITION_FAILED, 1, 1)]


def test_unmet_precondition_fails_if_its_state_was_never_reached(bench: Bench) -> None:
    """
    A step fails as not taken if the state for its response was never reached.
    """
    bench.submit()
    bench.turn()
    looked = bench.submit(precondition=lambda _: False)
    bench.store.finish(Refusal("full"))
    assert [type(outcome) for outcome in looked] == [Refusal]


def test_repeated_key_gets_the_first_outcome_wherever_its_first_use_is(
    bench: Bench,
) -> None:
    """
    In the open batch, in the committing one, or on disk.
    """
    first = bench.submit(key=b"k")
    gathering = bench.submit(key=b"k")
    bench.turn()
    under_way = bench.submit(key=b"k")
    assert first + gathering + under_way == []
    bench.store.finish()
    bench.commit()
    on_disk = bench.submit(key=b"k")
    assert first == [(Outcome.APPLIED, 1, 1)]
    assert gathering == under_way == on_disk == [(Outcome.REPLAYED, 1, 1)]
    assert bench.latest.revision == 2


def test_a_key_that_is_sent_again_and_again(bench: Bench) -> None:
    """
    The state that a key led to is made once, however often the key is repeated.

    Far along the sequence, making a state takes milliseconds.
    """
    bench.submit(key=b"k")
    bench.turn()
    bench.store.finish()
    first, second = (now(submit(bench.committer, Step(NEXT, b"k"))) for _ in range(2))
    assert first.outcome is Outcome.REPLAYED
    assert first.state.term is second.state.term


def test_key_of_another_transition_is_refused(bench: Bench) -> None:
    """
    Wherever its first use is.
    """
    bench.submit(key=b"k")
    gathering = bench.submit(RESET, key=b"k")
    bench.turn()
    under_way = bench.submit(RESET, key=b"k")
    bench.store.finish()
    on_disk = bench.submit(PREVIOUS, key=b"k")
    assert [type(outcome) for outcome in gathering + under_way + on_disk] == [KeyReused] * 3


def test_key_of_a_transition_that_did_not_happen_is_not_reported_as_used(
    bench: Bench,
) -> None:
    """
    The request waits for the commit of the step that has its key.
    """
    step = bench.submit(key=b"k")
    other = bench.submit(RESET, key=b"k")
    bench.turn()
    assert other == []
    bench.store.finish(Refusal("the disk is full"))
    assert [type(error) for error in step + other] == [Refusal] * 2


def test_repeated_key_is_replayed_despite_an_unmet_precondition(bench: Bench) -> None:
    bench.submit(key=b"k", precondition=lambda state: state.revision == 0)
    bench.turn()
    bench.store.finish()
    again = bench.submit(key=b"k", precondition=lambda state: state.revision == 0)
    assert again == [(Outcome.REPLAYED, 1, 1)]


def test_the_key_of_an_unmet_move_is_free(bench: Bench) -> None:
    """
    The key of a move that did not happen is not remembered.
    """
    assert bench.submit(key=b"k", precondition=lambda _: False) == [
        (Outcome.PRECONDITION_FAILED, 0, 0)
    ]
    again = bench.submit(key=b"k")
    bench.turn()
    bench.store.finish()
    assert again == [(Outcome.APPLIED, 1, 1)]


def test_cancelled_waiter_leaves_its_step_and_its_batch(bench: Bench) -> None:
    leaving = submit(bench.committer, Step(NEXT))
    leaving.addErrback(lambda _: None)
    staying = bench.submit()
    bench.turn()
    leaving.cancel()
    bench.store.finish()
    assert staying == [(Outcome.APPLIED, 2, 2)]


def test_draining_commits_accepted_steps_and_refuses_later_ones(bench: Bench) -> None:
    under_way = bench.submit()
    bench.turn()
    gathered = bench.submit()
    drained: list[None] = []
    Deferred.fromCoroutine(bench.committer.stop()).addCallback(drained.append)
    late = bench.submit()
    assert isinstance(late[0], Refusal)
    bench.store.finish()
    assert drained == []
    bench.store.finish()
    assert drained == [None]
    assert under_way + gathered == [(Outcome.APPLIED, 1, 1), (Outcome.APPLIED, 2, 2)]


def test_draining_commits_a_waiting_batch_at_once(bench: Bench) -> None:
    bench.commit(4)
    alone = bench.submit()
    drained: list[None] = []
    Deferred.fromCoroutine(bench.committer.stop()).addCallback(drained.append)
    bench.store.finish()
    assert (alone, drained) == ([(Outcome.APPLIED, 5, 5)], [None])


def test_committer_is_settled_when_no_commit_is_in_progress(bench: Bench) -> None:
    now(bench.committer.wait_for_commit())
    bench.submit()
    bench.turn()
    ended: list[None] = []
    bench.committer.wait_for_commit().addCallback(ended.append)
    bench.submit()
    assert ended == []
    bench.store.finish()
    assert ended == [None]


def test_committer_without_a_read_cursor_refuses_with_the_reason() -> None:
    bench = Bench()
    assert bench.committer.read_refusal is None
    committer = Committer(MemoryStore(), Turns(), on_fatal_failure=bench.fatal.append)
    assert str(committer.read_refusal) == "the cursor is not read yet"
    committer.refuse_all("the store is away")
    assert str(committer.read_refusal) == "the store is away"


def test_stop_closes_the_store_after_the_last_commit(bench: Bench) -> None:
    bench.submit()
    stopped: list[None] = []
    Deferred.fromCoroutine(bench.committer.stop()).addCallback(stopped.append)
    assert not bench.store.closed
    bench.store.finish()
    assert bench.store.closed
    assert stopped == [None]


def test_history_has_the_newest_entries_below_a_revision(bench: Bench) -> None:
    bench.commit(3)
    assert [row.revision for row in now(bench.committer.history(4, 10))] == [3, 2, 1]
    assert [row.revision for row in now(bench.committer.history(3, 1))] == [2]


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


def test_refused_steps_are_logged_once_a_second() -> None:
    """
    With their number.
    """
    bench = Bench(held=False)
    bench.store.failure = Refusal("disk full")
    events: list[LogEvent] = []
    observe = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(5):
            bench.submit()
            bench.turn()
        bench.clock.turn(REFUSAL_LOG_INTERVAL_SECONDS)
        bench.submit()
        bench.turn()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert [event["count"] for event in events] == [1, 5]


def test_committer_is_not_ready_while_the_disk_is_full() -> None:

    class Full(MemoryStore):
        def commit_refusal(self) -> Refusal | None:
            return Refusal("disk full") if full else None

    full = False
    committer = Committer(Full(), Turns(), on_fatal_failure=print)
    # Nor is it ready before the cursor is read.
    assert str(committer.step_refusal) == "the cursor is not read yet"
    now(Deferred.fromCoroutine(committer.start()))
    assert committer.step_refusal is None
    full = True
    assert str(committer.step_refusal) == "disk full"


def test_waiter_that_raises_is_logged_and_the_others_are_called() -> None:
    bench = Bench()

    def raises(_: object, /) -> None:
        raise ZeroDivisionError

    bench.committer.step(Step(NEXT), CallingWaiter(raises, raises))
    after = bench.submit()
    bench.turn()
    bench.store.finish()
    assert after == [(Outcome.APPLIED, 2, 2)]
    assert not bench.fatal


class AnyOrder(RuleBasedStateMachine):
    """
    A committer for which requests arrive and commits end in any order.

    Each acknowledged step is durable, once, in order, and exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.acknowledged: dict[int, int] = {}
        self.keys: dict[bytes, int] = {}

    @rule(
        transition=st.sampled_from(list(Transition)),
        key=st.none() | st.sampled_from([b"a", b"b", b"c"]),
        behind=st.none() | st.integers(0, 2),
    )
    def submit(self, transition: Transition, key: bytes | None, behind: int | None) -> None:
        """
        Submit a step, maybe with a key, maybe with a precondition that holds or does not.
        """
        revision = self.bench.latest.revision
        precondition = (
            None if behind is None else lambda now: now.revision == revision - behind
        )
        # A key belongs to one transition, or every other submission is a 422.
        name = None if key is None else key + transition.code

        def answered(response: Response) -> None:
            state = response.state
            assert state.revision <= self.bench.store.cursor.revision, "not durable"
            if response.outcome is Outcome.APPLIED:
                assert state.revision not in self.acknowledged, "acknowledged twice"
                self.acknowledged[state.revision] = state.position
            if name is not None and response.outcome is not Outcome.PRECONDITION_FAILED:
                assert self.keys.setdefault(name, state.revision) == state.revision

        def failed(failure: Failure) -> None:
            assert isinstance(failure.value, Refusal)

        submit(self.bench.committer, Step(transition, name, precondition)).addCallbacks(
            answered, failed
        )

    @rule(seconds=st.sampled_from([0.0, MAX_WAIT_SECONDS]))
    def turn(self, seconds: float) -> None:
        """
        Let time go by.
        """
        self.bench.clock.turn(seconds)

    @precondition(lambda self: self.bench.store.under_way is not None)
    @rule(taken=st.booleans())
    def finish(self, taken: bool) -> None:  # noqa: FBT001 hypothesis names it
        """
        End the commit under way.
        """
        self.bench.store.finish(None if taken else Refusal("full"))

    @invariant()
    def agrees_with_the_store(self) -> None:
        """
        Check that the durable state is the store's.

        Check also that every acknowledged state is in the store's journal.
        """
        store, durable = self.bench.store, self.bench.committer.durable
        assert durable.cursor == store.cursor
        rows = {row.revision: row.position for row in store.rows}
        assert self.acknowledged.items() <= rows.items()
        counts = self.bench.counted()
        moved = sum(count for name, count in counts.items() if name.startswith("moved"))
        assert moved == durable.revision


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
