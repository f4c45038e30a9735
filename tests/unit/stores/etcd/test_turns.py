"""
Turns between nodes: how the store writes and reads the queue, one message at a time.
"""

from __future__ import annotations

from base64 import b64decode

import pytest
from twisted.internet.task import Clock

from pexservice.stores.etcd import messages
from pexservice.stores.etcd.messages import MAX_BATCH_KEYS
from pexservice.stores.etcd.records import Layout, decode_mark, encode_mark, end_of
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.etcd.turn_queue import MAX_REMOVED_MARKS
from pexservice.stores.shared_interface import Conflict
from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import collected, now
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
        self.store.watch(lambda _: None)
        self.gateway.open = False

    def turn(self) -> list[object]:
        """
        Ask for a turn, and return a list that gets the cursor when the turn has begun.
        """
        return collected(self.store.turn())

    def send(self) -> list[object]:
        """
        Commit a step on the cursor that the node knows.

        @return: a list that gets what the commit ends with.
        """
        taken = batch(self.store._known_record.cursor, b"n")
        return collected(self.store.commit(taken))

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

    def queue(self) -> list[tuple[str, bool]]:
        """
        Return the names of the nodes in the queue, and whether their steps wait.
        """
        marks = LAYOUT.mark("")
        message = messages.get(marks, end_of(marks), sort_target="MOD")
        pairs = messages.pairs(self.etcd.apply("kv/range", message))
        return [(mark.node, mark.hard) for mark in (decode_mark(LAYOUT, p) for p in pairs)]


Nodes = tuple[Node, Node, Node]


@pytest.fixture
def nodes() -> Nodes:
    """
    Provide three nodes on one etcd.
    """
    etcd, clock = FakeEtcd(), Clock()
    return Node(etcd, clock, "one"), Node(etcd, clock, "two"), Node(etcd, clock, "three")


def put_mark(etcd: FakeEtcd, node: str, *, usual: float = 0.01, hard: bool = False) -> None:
    etcd.put(LAYOUT.mark(node), b64decode(encode_mark(usual, hard=hard)))


def test_node_that_loses_a_race_begins_a_queue(nodes: Nodes) -> None:
    """
    A node that loses a race begins a queue, in which both nodes keep a place.

    The node that loses has a hard mark, and its turn at once, since no node is before it.
    With its success this node keeps a place.  The other node hears of that success, and
    keeps a place too.
    """
    node, other_node, _ = nodes
    won = node.send()
    lost = other_node.send()
    node.clock.advance(0.01)
    node.gateway.answer()
    other_node.gateway.answer()
    assert won == [None]
    assert isinstance(lost[0], Conflict)
    assert node.queue() == [("two", True)]
    other_node.step()
    assert node.queue() == [("two", False)]
    node.hear()
    node.step()
    assert node.queue() == [("two", False), ("one", False)]
    # Now each waits for the other.
    waits = node.turn()
    assert waits == []
    other_node.hear()
    other_node.step()
    assert waits == []
    node.hear()
    assert waits == [(4, 4)]


@pytest.mark.parametrize("renewed", [False, True])
def test_absent_node_is_skipped_and_loses_its_mark(nodes: Nodes, *, renewed: bool) -> None:
    """
    The next success removes the mark, unless its node has put it again meanwhile.
    """
    node, *_ = nodes
    put_mark(node.etcd, "dead", hard=True)
    node.step()
    assert node.queue() == [("dead", True)]
    waits = node.turn()
    assert waits == []
    node.clock.advance(0.1)
    assert waits == [(1, 1)]
    node.send()
    if renewed:
        put_mark(node.etcd, "dead", hard=True)
    node.gateway.answer()
    assert node.queue() == [("dead", True)] * renewed + [("one", False)]
    assert (node.turn() == []) is renewed


def test_node_keeps_its_place_after_a_failure_and_a_new_node_gets_the_last(
    nodes: Nodes,
) -> None:
    node, other_node, third_node = nodes
    put_mark(node.etcd, "one")
    other_node.step()
    for loser in (node, third_node):
        ended = loser.send()
        loser.gateway.answer()
        assert isinstance(ended[0], Conflict)
    assert node.queue() == [("one", False), ("three", True)]
    assert node.turn() == [(1, 1)]
    assert third_node.turn() == []


def test_unreadable_mark_delays_no_node_and_is_removed(nodes: Nodes) -> None:
    node, *_ = nodes
    for name, value in (
        (b"odd", b""),
        (b"odd", b"[]"),
        (b"odd", b'{"hard": 1, "usual": "x"}'),
        (b"odd", b'{"hard": 1, "usual": 1%0400d}' % 0),
        (b"\xff", b"{}"),
    ):
        node.etcd.put(LAYOUT.mark("") + name, value)
        node.step()
        node.clock.advance(0.02)
        node.step()
        node.step()
        assert node.queue() == []


def test_next_success_removes_the_mark_of_a_copied_transaction(nodes: Nodes) -> None:
    """
    A late copy of a transaction may leave a mark of a node that has nothing to do.
    """
    node, *_ = nodes
    ended = node.send()
    node.gateway.lose_answer()
    node.clock.advance(1)
    node.gateway.answer()
    assert ended == [None]
    assert node.queue() == [("one", True)]
    node.step()
    assert node.queue() == []


def test_stopping_node_leaves_the_queue(nodes: Nodes) -> None:
    node, *_ = nodes
    put_mark(node.etcd, "one")
    node.gateway.open = True
    now(node.store.close())
    assert node.queue() == []
    assert len([key for key in node.etcd.values if b"operations/" in key]) == 2


def test_etcd_accepts_the_largest_possible_transaction(nodes: Nodes) -> None:
    """
    Whether it succeeds or fails.
    """
    node, other_node, _ = nodes
    node.gateway.open = other_node.gateway.open = True
    for number in range(MAX_REMOVED_MARKS):
        put_mark(node.etcd, f"dead-{number}")
    now(node.store.commit(batch((0, 0), 100 * b"n")))
    waits = node.turn()
    while not waits:
        node.clock.advance(0.1)
    # This batch also removes the oldest rows of the journal.
    names = [b"%d" % index for index in range(MAX_BATCH_KEYS)]
    largest = batch((100, 100), MAX_BATCH_KEYS * b"n", *names)
    now(node.store.commit(largest))
    assert node.queue() == [("one", False)]
    other_node.gateway.hear()
    with pytest.raises(Conflict) as conflict:
        now(other_node.store.commit(largest))
    assert conflict.value.used.keys() == {*names}
