"""
The order in which nodes take turns, one rule at a time.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from pexservice.stores.etcd.records import Mark
from pexservice.stores.etcd.turn_queue import (
    HARD_TRANSACTIONS,
    IGNORED_WAITS,
    MAX_REMOVED_MARKS,
    MAX_TURN_SECONDS,
    MIN_HARD_SECONDS,
    SOFT_TRANSACTIONS,
    TurnQueue,
)

#: How long a transaction takes, of any node.  Seconds.
USUAL = 0.01


def soft(node: str, mod_revision: int, usual: float = USUAL) -> Mark:
    """
    Make the mark of a node that will probably have steps.
    """
    return Mark(node, hard=False, usual_seconds=usual, mod_revision=mod_revision)


def hard(node: str, mod_revision: int, usual: float = USUAL) -> Mark:
    """
    Make the mark of a node at which steps wait.
    """
    return evolve(soft(node, mod_revision, usual), hard=True)


@pytest.fixture
def queue() -> TurnQueue:
    return TurnQueue("me")


def test_commit_out_of_turn_changes_no_order_of_the_others(queue: TurnQueue) -> None:
    queue.note_answer(1.0, USUAL, 5, [soft("a", 3), soft("b", 4)], stored=True)
    queue.note_commit(1.001, "b", 6)
    queue.note_commit(1.001, "someone", 7)
    queue.note_commit(1.001, "", 8)
    assert queue.delay(1.001) > 0
    queue.note_commit(1.002, "a", 9)
    assert queue.delay(1.002) == 0


@pytest.mark.parametrize(("revision", "waits"), [(3, True), (6, False)])
def test_news_before_the_response_ends_a_turn_only_if_it_is_newer_than_the_mark(
    queue: TurnQueue, revision: int, *, waits: bool
) -> None:
    queue.note_commit(1.0, "a", revision)
    queue.note_answer(1.001, USUAL, 5, [soft("a", 3)], stored=True)
    queue.note_commit(1.002, "a", 3)
    assert (queue.delay(1.002) > 0) is waits


@pytest.mark.parametrize(
    ("mark", "patience"),
    [
        (soft("a", 3), USUAL + SOFT_TRANSACTIONS * USUAL),
        (hard("a", 3), USUAL + HARD_TRANSACTIONS * USUAL),
        (hard("a", 3, USUAL / 100), MIN_HARD_SECONDS),
    ],
)
def test_node_is_waited_for_as_long_as_its_turn_can_take(
    queue: TurnQueue, mark: Mark, patience: float
) -> None:
    """
    The usual times of that node and of this node tell how long. Then it is skipped.
    """
    queue.note_answer(1.0, USUAL, 5, [mark], stored=True)
    assert queue.delay(1.0) == pytest.approx(patience)
    assert queue.delay(1.0 + patience / 2) == pytest.approx(patience / 2)
    assert queue.overdue_marks == []
    assert queue.delay(1.0 + patience) == 0
    assert queue.overdue_marks == [mark]


@pytest.mark.parametrize("mark", [soft("a", 3, 0.1), hard("a", 3, 0.1)])
def test_slow_node_is_skipped_until_its_mark_is_old_and_keeps_its_place(
    queue: TurnQueue, mark: Mark
) -> None:
    """
    The queue waits for a far node only in some turns, but then for long enough.
    """
    wait = USUAL + HARD_TRANSACTIONS * 0.1
    for seconds in range(IGNORED_WAITS):
        queue.note_answer(1.0 + seconds * wait, USUAL, 5, [mark], stored=True)
        assert queue.delay(1.0 + seconds * wait) == 0
        assert queue.overdue_marks == []
    waits_at = 1.0 + IGNORED_WAITS * wait
    queue.note_answer(waits_at, USUAL, 6, [mark], stored=True)
    assert queue.delay(waits_at) == pytest.approx(wait)
    assert queue.delay(waits_at + wait) == 0
    assert queue.overdue_marks == [mark]
    # Its next mark is skipped again.
    queue.note_answer(
        waits_at + wait, USUAL, 8, [evolve(mark, mod_revision=7)], stored=True
    )
    assert queue.delay(waits_at + wait) == 0
    assert queue.overdue_marks == []


def test_slow_node_is_waited_for_no_longer_than_half_a_second(queue: TurnQueue) -> None:
    """
    A mark says how slow its node is, and may say anything.
    """
    mark = hard("a", 3, 10.0)
    queue.note_answer(1.0, USUAL, 5, [mark], stored=True)
    queue.note_answer(2.0, USUAL, 5, [mark], stored=True)
    assert queue.delay(2.0) == MAX_TURN_SECONDS


def test_time_of_a_node_begins_when_it_is_first_in_the_queue(queue: TurnQueue) -> None:
    """
    By news, or because the time of the node before it ran out.

    Commits of other nodes do not lengthen the wait.
    """
    queue.note_answer(1.0, USUAL, 5, [soft(name, 2) for name in "abcd"], stored=True)
    patience = queue.delay(1.0)
    queue.note_commit(1.0 + patience / 2, "a", 6)
    assert queue.delay(1.0 + patience / 2) == pytest.approx(patience)
    for other in ("d", "old"):
        queue.note_commit(1.0 + patience, other, 7)
    assert queue.delay(1.0 + patience) == pytest.approx(patience / 2)
    assert queue.delay(1.0 + 1.6 * patience) == pytest.approx(patience)
    assert [mark.node for mark in queue.overdue_marks] == ["b"]


def test_skipped_node_is_not_waited_for_until_it_puts_a_new_mark(
    queue: TurnQueue,
) -> None:
    """
    Every transaction tries to remove the node's old mark until one succeeds.
    """
    dead = hard("a", 3)
    queue.note_answer(1.0, USUAL, 5, [dead], stored=True)
    assert queue.delay(2.0) == 0
    queue.note_answer(2.01, USUAL, 7, [dead, hard("me", 7)], stored=False)
    assert queue.delay(2.01) == 0
    assert queue.overdue_marks == [dead]
    queue.note_answer(2.02, USUAL, 8, [hard("a", 8)], stored=True)
    assert queue.overdue_marks == []
    assert queue.delay(2.02) > 0


def test_transaction_removes_some_marks_and_the_next_one_the_others(
    queue: TurnQueue,
) -> None:
    dead = [hard(str(number), number) for number in range(1, 11)]
    queue.note_answer(1.0, USUAL, 20, dead, stored=True)
    moment = 1.0
    while delay := queue.delay(moment):
        moment += delay
    assert queue.overdue_marks == dead[:MAX_REMOVED_MARKS]
    queue.note_answer(moment, USUAL, 21, dead[MAX_REMOVED_MARKS:], stored=True)
    assert queue.delay(moment) == 0
    assert queue.overdue_marks == dead[MAX_REMOVED_MARKS:]


def test_node_keeps_a_place_if_others_wait_and_its_steps_come_in_time(
    queue: TurnQueue,
) -> None:
    """
    In time is before the node's turn comes, or within a usual time after that.
    """
    queue.note_answer(1.0, USUAL, 5, [soft("a", 3)], stored=True)
    queue.request_turn(1.005)
    assert queue.keeps_place
    queue.note_commit(1.01, "a", 6)
    queue.request_turn(1.01 + 0.9 * USUAL)
    assert queue.keeps_place
    queue.request_turn(1.01 + 1.1 * USUAL)
    assert not queue.keeps_place
    # A node that was late once keeps a place again when it comes in time.
    queue.note_answer(2.01, USUAL, 7, [soft("a", 6)], stored=True)
    queue.request_turn(2.011)
    assert queue.keeps_place


def test_node_that_lost_or_heard_of_others_is_not_alone(queue: TurnQueue) -> None:
    """
    A node whose response names no other node is alone.
    """
    queue.request_turn(0.0)
    queue.note_answer(1.0, USUAL, 5, [hard("me", 5)], stored=False)
    assert queue.keeps_place
    queue.note_answer(1.01, USUAL, 6, [], stored=True)
    assert not queue.keeps_place
    queue.note_commit(1.02, "old", 7)
    assert queue.keeps_place
    queue.note_commit(1.03, "old", 9)
    queue.note_answer(1.04, USUAL, 8, [], stored=True)
    assert queue.keeps_place


def test_usual_time_slowly_follows_the_duration_of_transactions(
    queue: TurnQueue,
) -> None:
    """
    No transaction counts for more than the longest wait.
    """
    queue.note_answer(1.0, USUAL, 5, [], stored=True)
    queue.note_answer(2.0, 2 * USUAL, 6, [], stored=False)
    assert queue.usual_seconds == pytest.approx(1.1 * USUAL)
    queue.note_answer(3.0, 100.0, 7, [], stored=True)
    assert queue.usual_seconds < MAX_TURN_SECONDS / 8
