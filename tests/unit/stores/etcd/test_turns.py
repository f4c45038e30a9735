"""
Turns between nodes: how the store writes and reads the queue, one message at a time.
"""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from twisted.internet.task import Clock

from pexservice.core.cursor import Cursor
from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import CallRefused
from pexservice.stores.etcd.messages import MAX_BATCH_KEYS, LastBatchKey
from pexservice.stores.etcd.records import (
    Layout,
    Mark,
    decode_mark,
    encode_cursor,
    encode_mark,
    end_of,
    text,
)
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.etcd.turn_queue import MAX_REMOVED_MARKS, TurnQueue
from pexservice.stores.shared_interface import Conflict
from tests.support.fake_etcd import MAX_OPERATIONS, WRONG, FakeEtcd, FakeGateway
from tests.support.fakes import now
from tests.unit.stores.test_contract import batch

LAYOUT = Layout(b"p/")


class Node:
    """
    A node whose messages and news the test has in its hands.
    """

    def __init__(self, etcd: FakeEtcd, clock: Clock, name: str) -> None:
        self.etcd, self.clock = etcd, clock
        self.gateway = FakeGateway(etcd, clock)
        self.store = EtcdStore(self.gateway, "p/", node=name)
        now(self.store.open())
        self.store.watch(lambda *_: None, lambda *_: None)
        self.gateway.open = False
        self.name = name

    def turn(self) -> list[object]:
        """
        Ask for a turn.

        @return: a list that gets the cursor when the turn has begun.
        """
        outcomes: list[object] = []
        self.store.turn().addCallback(outcomes.append)
        return outcomes

    def send(self, *names: bytes) -> list[object]:
        """
        Commit a step for each of C{names}, at least one, on the cursor that the node knows.

        @return: a list that gets what the commit ends with.
        """
        ended: list[object] = []
        taken = batch(self.known, b"n" * max(1, len(names)), *names)
        self.store.commit(taken).addCallbacks(ended.append, lambda f: ended.append(f.value))
        return ended

    @property
    def known(self) -> tuple[int, int]:
        """
        Return the cursor as the node knows it.
        """
        return self.store._known_record.cursor

    def step(self) -> None:
        """
        Get a turn at once, and commit a step in it.
        """
        assert self.turn()
        ended = self.send()
        self.clock.advance(0.01)
        self.gateway.answer()
        assert ended == [None]

    def hear(self) -> None:
        """
        Hear all the news.
        """
        while self.gateway.news:
            self.gateway.hear()


@pytest.fixture
def nodes() -> tuple[Node, Node, Node]:
    """
    Provide three nodes on one etcd.
    """
    etcd, clock = FakeEtcd(), Clock()
    first_node, second_node, third_node = (
        Node(etcd, clock, name) for name in ("one", "two", "three")
    )
    return first_node, second_node, third_node


def queued(node: Node) -> list[tuple[str, bool]]:
    """
    Return the names of the nodes in the queue, in its order, and whether their moves wait.
    """
    answer = node.etcd.apply(
        "kv/range",
        messages.get(LAYOUT.mark(""), end_of(LAYOUT.mark("")), sort_target="MOD"),
    )
    marks = [decode_mark(LAYOUT, pair) for pair in messages.pairs(answer)]
    return [(mark.node, mark.hard) for mark in marks]


def test_single_node_is_in_no_queue(nodes: tuple[Node, ...]) -> None:
    node, *_ = nodes
    for _ in range(3):
        node.step()
        node.hear()
    assert queued(node) == []


def race(winner: Node, loser: Node) -> None:
    """
    Have two nodes send at once, of which the second loses.
    """
    assert winner.turn()
    assert loser.turn()
    won, lost = winner.send(), loser.send()
    winner.clock.advance(0.01)
    winner.gateway.answer()
    loser.gateway.answer()
    assert won == [None]
    assert isinstance(lost[0], Conflict)


def test_node_that_loses_a_race_begins_a_queue(nodes: tuple[Node, ...]) -> None:
    """
    A node that loses a race begins a queue, in which both nodes keep a place.

    The node that loses has a hard mark, and its turn at once, since no node is before it.
    With its success this node keeps a place.  The other node hears of that success, and
    keeps a place too.
    """
    node, other_node, _ = nodes
    race(node, other_node)
    assert queued(node) == [("two", True)]
    other_node.step()
    assert queued(node) == [("two", False)]
    node.hear()
    node.step()
    assert queued(node) == [("two", False), ("one", False)]
    # Now each waits for the other.
    waits = node.turn()
    assert waits == []
    other_node.hear()
    other_node.step()
    assert waits == []
    node.hear()
    assert waits == [(4, 4)]


def put(etcd: FakeEtcd, node: str, *, usual: float = 0.01, hard: bool = False) -> None:
    """
    Put a mark of C{process} into the queue.
    """
    mark = {"key": text(LAYOUT.mark(node)), "value": encode_mark(usual, hard=hard)}
    etcd.apply("kv/txn", {"success": [{"request_put": mark}]})


def test_busy_nodes_take_turns_and_no_transaction_fails(nodes: tuple[Node, ...]) -> None:
    """
    The news of one node's commit starts the next node's turn.
    """
    waiting = [node.turn() for node in nodes]
    order = []
    for _ in range(30):
        for node in nodes:
            node.hear()
        sending = [(n, nodes[n].send()) for n in range(3) if waiting[n]]
        nodes[0].clock.advance(0.001)
        for number, ended in sending:
            nodes[number].gateway.answer()
            order.append((number, ended == [None]))
            waiting[number] = nodes[number].turn()
    (first, _), (second, _) = order[-2:]
    assert order[-12:] == 4 * [(3 - first - second, True), (first, True), (second, True)]


def test_node_may_hear_of_the_next_turns_before_its_response(
    nodes: tuple[Node, ...],
) -> None:
    node, other_node, _ = nodes
    put(node.etcd, "two")
    assert node.turn()
    ended = node.send()
    node.gateway.reach()
    other_node.hear()
    other_node.step()
    node.hear()
    node.gateway.answer()
    assert ended == [None]
    # The answer had the old mark of node two in it.
    assert node.turn() == [(2, 2)]


def test_node_without_news_waits_no_longer_than_the_turns_of_others(
    nodes: tuple[Node, ...],
) -> None:
    node, other_node, _ = nodes
    put(node.etcd, "two", usual=0.02)
    node.step()
    other_node.hear()
    other_node.step()
    outcomes = node.turn()
    node.clock.advance(0.04)
    assert outcomes == []
    node.clock.advance(0.2)
    # The cursor that the node knows is old.
    assert outcomes == [(1, 1)]
    (conflict,) = lose(node)
    assert isinstance(conflict, Conflict)
    assert conflict.cursor == (2, 2)
    assert node.turn() == [(2, 2)]


def lose(node: Node) -> list[object]:
    """
    Send a batch from C{node}, have it answered, and return what it ended with.
    """
    ended = node.send()
    node.gateway.answer()
    return ended


def test_absent_node_is_skipped_and_loses_its_mark(nodes: tuple[Node, ...]) -> None:
    """
    The next success removes the mark.
    """
    node, *_ = nodes
    put(node.etcd, "dead", hard=True)
    node.step()
    assert queued(node) == [("dead", True)]
    outcomes = node.turn()
    assert outcomes == []
    node.clock.advance(0.1)
    assert outcomes == [(1, 1)]
    node.send()
    node.gateway.answer()
    assert queued(node) == [("one", False)]


def test_mark_that_was_renewed_meanwhile_is_not_removed(nodes: tuple[Node, ...]) -> None:
    """
    Its node was skipped.
    """
    node, *_ = nodes
    put(node.etcd, "slow", hard=True)
    node.step()
    assert node.turn() == []
    node.clock.advance(0.1)
    node.send()
    put(node.etcd, "slow", hard=True)
    node.gateway.answer()
    assert ("slow", True) in queued(node)
    assert node.turn() == []


def test_node_keeps_its_place_after_a_failure(nodes: tuple[Node, ...]) -> None:
    node, other_node, _ = nodes
    put(node.etcd, "one")
    put(node.etcd, "three")
    other_node.step()
    lose(node)
    assert queued(node)[0] == ("one", False)
    assert node.turn() == [(1, 1)]


def test_new_node_that_loses_waits_for_the_nodes_in_the_queue(
    nodes: tuple[Node, ...],
) -> None:
    node, other_node, _ = nodes
    put(node.etcd, "three", usual=1.0)
    other_node.step()
    lose(node)
    assert queued(node)[-1] == ("one", True)
    assert node.turn() == []


def test_unreadable_mark_delays_no_node_and_is_removed(nodes: tuple[Node, ...]) -> None:
    node, *_ = nodes
    huge = b'{"hard": 1, "usual": 1%0400d}' % 0
    for name, value in (
        (b"odd", b""),
        (b"odd", b"[]"),
        (b"odd", b'{"hard": 1, "usual": "x"}'),
        (b"odd", huge),
        (b"\xff", b"{}"),
    ):
        mark = {"key": text(LAYOUT.mark("") + name), "value": text(value)}
        node.etcd.apply("kv/txn", {"success": [{"request_put": mark}]})
        node.step()
        node.clock.advance(0.02)
        node.step()
        node.step()
        assert queued(node) == []


def test_node_of_a_version_without_a_queue_is_not_waited_for(
    nodes: tuple[Node, ...],
) -> None:
    """
    It does not name itself.
    """
    node, *_ = nodes
    cursor = {"key": text(LAYOUT.cursor), "value": encode_cursor(Cursor(7, 7), 0, "", 9)}
    value = json.loads(b64decode(cursor["value"]))
    del value["author"]
    cursor["value"] = text(json.dumps(value).encode())
    node.etcd.apply("kv/txn", {"success": [{"request_put": cursor}]})
    node.hear()
    node.step()
    assert node.known == (8, 8)
    assert queued(node) == [("one", False)]
    assert node.turn() == [(8, 8)]


def test_next_success_removes_the_mark_of_a_copied_transaction(
    nodes: tuple[Node, ...],
) -> None:
    """
    A late copy of a transaction may leave a mark of a node that has nothing to do.
    """
    node, *_ = nodes
    ended = node.send()
    node.gateway.lose_answer()
    node.clock.advance(1)
    node.gateway.answer()
    assert ended == [None]
    assert queued(node) == [("one", True)]
    node.step()
    assert queued(node) == []


def test_stopping_node_leaves_the_queue(nodes: tuple[Node, ...]) -> None:
    node, *_ = nodes
    put(node.etcd, "one")
    node.gateway.open = True
    now(node.store.close())
    assert queued(node) == []
    assert not [key for key in node.etcd.values if b"operations/" in key][2:]


def test_transaction_without_its_last_batch_key_fails_and_returns_the_cursor(
    nodes: tuple[Node, ...],
) -> None:
    """
    The mark of this failure must not have the ended lease.

    Otherwise etcd would refuse the whole transaction.
    """
    node, *_ = nodes
    node.etcd.expire("1")
    (conflict,) = lose(node)
    assert isinstance(conflict, Conflict)
    assert queued(node) == [("one", True)]


@pytest.mark.parametrize("again", [True, False])
def test_etcd_accepts_the_largest_possible_transaction(again: bool) -> None:  # noqa: FBT001 a parameter
    """
    Whether it succeeds or fails.
    """
    etcd = FakeEtcd()
    for number in range(MAX_REMOVED_MARKS):
        put(etcd, f"dead-{number}")
    dead = [
        Mark(f"dead-{number}", hard=False, usual_seconds=0, mod_revision=number + 2)
        for number in range(MAX_REMOVED_MARKS)
    ]
    operation = LastBatchKey(
        b"p/operations/x", 1, etcd.apply("lease/grant", {"TTL": "9"})["ID"]
    )
    etcd.apply("kv/txn", messages.create_last_batch_key(operation))
    etcd.apply("kv/txn", messages.create(LAYOUT, 9))
    cursor = etcd.apply("kv/range", messages.get(LAYOUT.cursor))
    queue = TurnQueue("me")
    queue._overdue_marks, queue._others_active, queue.usual_seconds = dead, again, 0.1
    message = messages.commit(
        LAYOUT,
        messages.only_cursor(LAYOUT, messages.pairs(cursor)),
        batch(
            (0, 0),
            MAX_BATCH_KEYS * b"n",
            *(b"%d" % index for index in range(MAX_BATCH_KEYS)),
        ),
        operation,
        queue=queue,
        journal=9,
        newest_expired=7,
    )
    assert len(message["success"]) <= MAX_OPERATIONS
    assert etcd.apply("kv/txn", message)["succeeded"]
    assert b"p/waiting/dead-0" not in etcd.values
    assert (b"p/waiting/me" in etcd.values) is again
    answer = etcd.apply("kv/txn", message)
    observation = messages.read_observation(
        LAYOUT, answer, [b"%d" % index for index in range(MAX_BATCH_KEYS)]
    )
    assert (observation.record.author, observation.last_batch) == ("me", 1)
    assert len(observation.used) == MAX_BATCH_KEYS
    assert [mark.node for mark in observation.marks] == ["me"]


def test_fake_etcd_refuses_each_wrong_transaction() -> None:
    """
    C{tests/functional/test_cluster.py} asks the same of etcd.
    """
    etcd = FakeEtcd()
    for code, wrong in WRONG.items():
        with pytest.raises(CallRefused) as caught:
            etcd.apply("kv/txn", wrong)
        assert caught.value.code == int(code.split()[0])
    assert etcd.values == {}
