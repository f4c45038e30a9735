"""
The order in which nodes take turns, one rule at a time.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from pexservice.stores.etcd.records import Mark
from pexservice.stores.etcd.standing_queue import (
    HARD_TRANSACTIONS,
    MAX_REMOVED_MARKS,
    MAX_TURN_SECONDS,
    MIN_HARD_SECONDS,
    SKIPPED_WAITS,
    SOFT_TRANSACTIONS,
    StandingQueue,
)

#: How long a transaction takes, of any node.  Seconds.
USUAL = 0.01


def soft(process: str, modified: int, usual: float = USUAL) -> Mark:
    """
    Make the mark of a node that will probably want a turn.
    """
    return Mark(process, False, usual, modified)  # noqa: FBT003 positional, as records are


def hard(process: str, modified: int, usual: float = USUAL) -> Mark:
    """
    Make the mark of a node that has moves which wait.
    """
    return Mark(process, True, usual, modified)  # noqa: FBT003 positional, as records are


@pytest.fixture
def queue() -> StandingQueue:
    """
    Provide the queue as a node that is alone sees it.
    """
    return StandingQueue("me")


def test_single_node_does_not_queue(queue: StandingQueue) -> None:
    queue.ask(0.0)
    assert queue.delay(0.0) == 0
    queue.won(1.0, USUAL, 5, [])
    queue.ask(1.0)
    assert queue.delay(1.0) == 0
    assert not queue.will_return
    assert queue.usual == pytest.approx(USUAL)


def test_all_other_nodes_are_ahead_after_a_success(queue: StandingQueue) -> None:
    """
    Until each has committed.
    """
    queue.won(1.0, USUAL, 5, [soft("a", 3), soft("b", 4), soft("me", 5)])
    assert queue.will_return
    assert queue.delay(1.0) > 0
    queue.heard(1.001, "a", 6)
    assert queue.delay(1.001) > 0
    queue.heard(1.002, "b", 7)
    assert queue.delay(1.002) == 0


def test_only_nodes_before_the_own_mark_are_ahead_after_a_failure(
    queue: StandingQueue,
) -> None:
    queue.lost(1.0, USUAL, 6, [hard("a", 3), hard("me", 4), soft("b", 6)])
    assert queue.delay(1.0) > 0
    queue.heard(1.001, "a", 7)
    assert queue.delay(1.001) == 0


def test_commit_out_of_turn_changes_no_order_of_the_others(queue: StandingQueue) -> None:
    queue.won(1.0, USUAL, 5, [soft("a", 3), soft("b", 4)])
    queue.heard(1.001, "b", 6)
    queue.heard(1.001, "someone", 7)
    queue.heard(1.001, "", 8)
    assert queue.delay(1.001) > 0
    queue.heard(1.002, "a", 9)
    assert queue.delay(1.002) == 0


def test_node_that_hears_only_its_own_commits_is_alone(queue: StandingQueue) -> None:
    queue.heard(1.0, "me", 5)
    assert not queue.will_return


def test_news_of_a_later_turn_counts_before_the_response_too(queue: StandingQueue) -> None:
    queue.heard(1.0, "a", 6)
    queue.won(1.001, USUAL, 5, [soft("a", 3), soft("b", 4)])
    queue.heard(1.002, "b", 7)
    assert queue.delay(1.002) == 0


def test_news_before_a_mark_does_not_end_its_turn(queue: StandingQueue) -> None:
    queue.heard(1.0, "a", 3)
    queue.won(1.001, USUAL, 5, [soft("a", 3)])
    queue.heard(1.002, "a", 3)
    assert queue.delay(1.002) > 0


@pytest.mark.parametrize(
    ("mark", "patience"),
    [
        (soft("a", 3), USUAL + SOFT_TRANSACTIONS * USUAL),
        (hard("a", 3), USUAL + HARD_TRANSACTIONS * USUAL),
        (hard("a", 3, USUAL / 100), MIN_HARD_SECONDS),
    ],
)
def test_node_is_waited_for_as_long_as_its_turn_can_take(
    queue: StandingQueue, mark: Mark, patience: float
) -> None:
    """
    The usual times of that node and of this node tell how long. Then it is skipped.
    """
    queue.won(1.0, USUAL, 5, [mark])
    assert queue.delay(1.0) == pytest.approx(patience)
    assert queue.delay(1.0 + patience / 2) == pytest.approx(patience / 2)
    assert queue.passed == []
    assert queue.delay(1.0 + patience) == 0
    assert queue.passed == [mark]


@pytest.mark.parametrize("mark", [soft("a", 3, 0.1), hard("a", 3, 0.1)])
def test_slow_node_is_skipped_until_its_mark_is_old_and_keeps_its_place(
    queue: StandingQueue, mark: Mark
) -> None:
    """
    A far node is not waited for in each turn, but for long enough now and then.
    """
    wait = USUAL + HARD_TRANSACTIONS * 0.1
    for seconds in range(SKIPPED_WAITS):
        queue.won(1.0 + seconds * wait, USUAL, 5, [mark])
        assert queue.delay(1.0 + seconds * wait) == 0
        assert queue.passed == []
    waits_at = 1.0 + SKIPPED_WAITS * wait
    queue.won(waits_at, USUAL, 6, [mark])
    assert queue.delay(waits_at) == pytest.approx(wait)
    assert queue.delay(waits_at + wait) == 0
    assert queue.passed == [mark]
    # Its next mark is skipped again.
    queue.won(waits_at + wait, USUAL, 8, [evolve(mark, modified=7)])
    assert queue.delay(waits_at + wait) == 0
    assert queue.passed == []


def test_slow_node_is_waited_for_no_longer_than_half_a_second(queue: StandingQueue) -> None:
    """
    A mark says how slow its node is, and may say anything.
    """
    mark = hard("a", 3, 10.0)
    queue.won(1.0, USUAL, 5, [mark])
    queue.won(2.0, USUAL, 5, [mark])
    assert queue.delay(2.0) == MAX_TURN_SECONDS


def test_time_of_a_node_begins_when_it_is_first_in_the_queue(queue: StandingQueue) -> None:
    """
    By news, or because the time of the node before it ran out.
    """
    queue.won(1.0, USUAL, 5, [soft("a", 2), soft("b", 3), soft("c", 4)])
    patience = queue.delay(1.0)
    queue.heard(1.0 + patience / 2, "a", 6)
    assert queue.delay(1.0 + patience / 2) == pytest.approx(patience)
    assert queue.delay(1.0 + patience) == pytest.approx(patience / 2)
    assert queue.delay(1.0 + 1.6 * patience) == pytest.approx(patience)
    assert [each.process for each in queue.passed] == ["b"]


def test_commits_of_others_do_not_lengthen_the_wait_for_the_first_node(
    queue: StandingQueue,
) -> None:
    queue.won(1.0, USUAL, 5, [soft("a", 2), soft("b", 3)])
    patience = queue.delay(1.0)
    queue.heard(1.0 + patience / 2, "b", 6)
    queue.heard(1.0 + patience / 2, "old", 7)
    assert queue.delay(1.0 + patience / 2) == pytest.approx(patience / 2)


def test_skipped_node_is_not_waited_for_until_it_puts_a_new_mark(
    queue: StandingQueue,
) -> None:
    """
    Every transaction tries to remove the node's old mark until one succeeds.
    """
    dead = hard("a", 3)
    queue.won(1.0, USUAL, 5, [dead])
    assert queue.delay(2.0) == 0
    queue.lost(2.01, USUAL, 7, [dead, hard("me", 7)])
    assert queue.delay(2.01) == 0
    assert queue.passed == [dead]
    queue.won(2.02, USUAL, 8, [hard("a", 8)])
    assert queue.passed == []
    assert queue.delay(2.02) > 0


def test_transaction_removes_some_marks_and_the_next_one_the_others(
    queue: StandingQueue,
) -> None:
    dead = [hard(str(number), number) for number in range(1, 11)]
    queue.won(1.0, USUAL, 20, dead)
    moment = 1.0
    while delay := queue.delay(moment):
        moment += delay
    assert queue.passed == dead[:MAX_REMOVED_MARKS]
    queue.won(moment, USUAL, 21, dead[MAX_REMOVED_MARKS:])
    assert queue.delay(moment) == 0
    assert queue.passed == dead[MAX_REMOVED_MARKS:]


def test_node_keeps_a_place_if_others_wait_and_its_steps_come_in_time(
    queue: StandingQueue,
) -> None:
    """
    In time is before the node's turn comes, or within a usual time after that.
    """
    queue.won(1.0, USUAL, 5, [soft("a", 3)])
    queue.ask(1.005)
    assert queue.will_return
    queue.heard(1.01, "a", 6)
    queue.ask(1.01 + 0.9 * USUAL)
    assert queue.will_return
    queue.ask(1.01 + 1.1 * USUAL)
    assert not queue.will_return


def test_node_that_was_late_once_keeps_a_place_again(queue: StandingQueue) -> None:
    """
    When it comes in time.
    """
    queue.won(1.0, USUAL, 5, [soft("a", 3)])
    queue.heard(1.0, "a", 6)
    queue.ask(2.0)
    assert not queue.will_return
    queue.won(2.01, USUAL, 7, [soft("a", 6)])
    queue.ask(2.011)
    assert queue.will_return


def test_node_that_lost_or_heard_of_others_is_not_alone(queue: StandingQueue) -> None:
    """
    A node whose response names no other node is alone.
    """
    queue.ask(0.0)
    queue.lost(1.0, USUAL, 5, [hard("me", 5)])
    assert queue.will_return
    queue.won(1.01, USUAL, 6, [])
    assert not queue.will_return
    queue.heard(1.02, "old", 7)
    assert queue.will_return
    queue.heard(1.03, "old", 9)
    queue.won(1.04, USUAL, 8, [])
    assert queue.will_return


def test_usual_time_slowly_follows_the_duration_of_transactions(
    queue: StandingQueue,
) -> None:
    """
    No transaction counts for more than the longest wait.
    """
    queue.won(1.0, USUAL, 5, [])
    queue.lost(2.0, 2 * USUAL, 6, [])
    assert queue.usual == pytest.approx(1.1 * USUAL)
    queue.won(3.0, 100.0, 7, [])
    assert queue.usual < MAX_TURN_SECONDS / 8
