"""
Turns between nodes, in a simulation of the time that messages take.

Clients ask again as soon as they are answered, at nodes that are as far from etcd as the
case says.  Each message takes a time that a seed chooses.
"""

from __future__ import annotations

import random
from base64 import b64decode
from collections.abc import Callable, Sequence
from statistics import mean

import pytest
from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from pexservice.commit.interface import Step
from pexservice.commit.optimistic import OptimisticCommitter
from pexservice.core.cursor import Transition
from pexservice.stores.etcd.records import Message
from pexservice.stores.etcd.store import EtcdStore
from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import Turns
from tests.support.forms import amount
from tests.support.steps import Response, submit

#: How long etcd takes for a transaction, and a message to it or from it.  Seconds.
COMMIT = 0.002
NEAR = 0.0005

#: By what part of itself each of these times may be longer.
SPREAD = 0.3

#: How long a client takes to ask again.  Seconds.
THINK = 0.0003

#: How long a cluster runs before rates are taken, and for how long.  Simulated seconds.
WARM_UP = amount(short=0.2, long=0.5)
LONG = amount(short=0.5, long=1.5)

#: The same for a cluster with a node that is far away.
FAR_WARM_UP = amount(short=0.8, long=2.0)
FAR_LONG = amount(short=1.2, long=4.0)


@define(eq=False, kw_only=True)
class Line(FakeGateway):
    """
    The connection of a node to etcd.

    @ivar far: how long a message takes, in seconds.
    @ivar held_until: the time before which nothing gets through.
    """

    chance: random.Random
    far: float
    held_until: float = 0.0

    async def _for(self, seconds: float) -> None:
        await deferLater(self.clock, seconds * self.chance.uniform(1, 1 + SPREAD))
        await deferLater(self.clock, max(0, self.held_until - self.clock.seconds()))

    async def call(self, path: str, message: Message) -> Message:
        """
        Send C{message}, have etcd apply it, and return the answer.
        """
        await self._for(self.far)
        await self._for(COMMIT if path == "kv/txn" else 0.0)
        answer = self.etcd.apply(path, message)
        await self._for(self.far)
        return answer

    async def stream(self, message: Message, take: Callable[[bytes], None]) -> None:
        """
        Watch a key, of which the news come in their order.
        """
        last_news: Deferred[None] = succeed(None)

        async def carry(line: bytes, earlier_news: Deferred[None]) -> None:
            await self._for(self.far)
            await earlier_news
            take(line)

        def tell(line: bytes) -> None:
            nonlocal last_news
            last_news = Deferred.fromCoroutine(carry(line, last_news))

        key = b64decode(message["create_request"]["key"])
        self.etcd.watchers.append((key, tell))
        await Deferred()


@define(eq=False)
class Node:
    """
    A node, and its clients.

    @ivar answers: when each was given, and how long it took.
    """

    committer: OptimisticCommitter
    line: Line
    answers: list[tuple[float, float]] = Factory(list)

    def ask(self, clock: Turns) -> Deferred[None]:
        """
        Ask the node for one step.

        @return: fires when the response has arrived.
        """
        asked = clock.seconds()

        def answered(_: Response) -> None:
            self.answers.append((clock.seconds(), clock.seconds() - asked))

        return submit(self.committer, Step(Transition.NEXT)).addCallback(answered)

    def keep_asking(self, clock: Turns) -> None:
        """
        Ask the node for a step, and again after each answer.
        """
        self.ask(clock).addCallback(
            lambda _: clock.callLater(THINK, self.keep_asking, clock)
        )

    def rate(self, since: float, until: float) -> float:
        """
        Return how many answers a second there were from C{since} until C{until}.
        """
        count = sum(since <= moment < until for moment, _ in self.answers)
        return count / (until - since)

    def longest(self, since: float, until: float) -> float:
        """
        Return how long the slowest answer from C{since} until C{until} took.
        """
        return max(took for moment, took in self.answers if since <= moment < until)


class Cluster:
    """
    Nodes on one etcd, and a clock that goes from event to event.
    """

    def __init__(self, seed: int) -> None:
        self.clock = Turns()
        self.chance = random.Random(seed)  # noqa: S311 no secret
        self.etcd = FakeEtcd()
        self.nodes: list[Node] = []
        self.failures: list[Failure] = []

    def add(self, clients: int, far: float = NEAR) -> Node:
        """
        Start a node with C{clients} clients.
        """
        line = Line(etcd=self.etcd, clock=self.clock, chance=self.chance, far=far)
        store = EtcdStore(line, "p/")
        committer = OptimisticCommitter(
            store, self.clock, on_fatal_failure=self.failures.append
        )
        node = Node(committer, line)
        self.nodes.append(node)

        def begin(_: None) -> None:
            for _number in range(clients):
                node.keep_asking(self.clock)

        Deferred.fromCoroutine(committer.start()).addCallback(begin)
        return node

    def run(self, seconds: float) -> float:
        """
        Let C{seconds} pass.

        @return: the time at their end.
        """
        end = self.clock.seconds() + seconds
        while (moment := min(call.getTime() for call in self.clock.calls)) < end:
            self.clock.turn(max(0.0, moment - self.clock.seconds()))
        self.clock.rightNow = end
        assert self.failures == []
        return end

    def rates(self, seconds: float = LONG) -> list[float]:
        """
        Return how many answers a second each node gives from now on.
        """
        since = self.clock.seconds()
        until = self.run(seconds)
        return [node.rate(since, until) for node in self.nodes]


def start(*clients: int, seed: int = 1) -> Cluster:
    """
    Return a cluster that has run for a while, with a node for each number of clients.
    """
    cluster = Cluster(seed)
    for count in clients:
        cluster.add(count)
    cluster.run(WARM_UP)
    return cluster


def fair(rates: Sequence[float]) -> bool:
    """
    Return whether each rate is within a factor of 1.5 of the mean.
    """
    return all(mean(rates) / 1.5 <= rate <= mean(rates) * 1.5 for rate in rates)


@pytest.mark.parametrize(
    ("nodes", "clients", "seed"),
    amount(
        short=[(5, 5, 1)],
        long=[(3, 1, 1), (3, 5, 1), (3, 5, 2), (3, 21, 1), (5, 5, 1)],
    ),
)
def test_nodes_with_equal_load_make_equally_many_steps(
    nodes: int, clients: int, seed: int
) -> None:
    """
    No client waits for more than a few rounds.

    Together the nodes make as many steps as one of them alone.
    """
    cluster = start(*nodes * [clients], seed=seed)
    since = cluster.clock.seconds()
    rates = cluster.rates()
    assert fair(rates)
    alone = start(clients, seed=seed)
    (of_one,) = alone.rates()
    assert sum(rates) > 0.9 * of_one
    longest = max(node.longest(since, since + LONG) for node in cluster.nodes)
    assert longest < 4 * nodes * alone.nodes[0].longest(WARM_UP, WARM_UP + LONG)


def test_node_with_one_client_gets_half_the_turns_of_a_busy_node() -> None:
    """
    At least.
    """
    many, idle_rate = start(21, 1).rates()
    assert idle_rate > 0.5 * many / 21


def test_other_nodes_share_the_turns_of_a_node_that_sleeps_and_gets_its_share_again() -> (
    None
):
    """
    They continue at once.
    """
    cluster = start(5, 5, 5)
    before = sum(cluster.rates())
    sleeper, *others = cluster.nodes
    since = cluster.clock.seconds()
    sleeper.line.held_until = since + LONG
    asleep, first_rate, second_rate = cluster.rates()
    assert asleep < 0.05 * first_rate
    assert fair([first_rate, second_rate])
    assert first_rate + second_rate > 0.9 * before
    assert max(node.longest(since, since + LONG) for node in others) < 0.1
    cluster.run(0.2)
    assert fair(cluster.rates())


@pytest.mark.parametrize("far", amount(short=[0.03], long=[0.015, 0.03, 0.05, 0.1]))
def test_far_node_neither_starves_nor_slows_the_others_down(far: float) -> None:
    """
    A node whose messages take long costs the others a part of their steps, and gets turns.
    """
    without = start(5, 5)
    of_two = sum(without.rates(FAR_LONG))
    cluster = Cluster(1)
    for distance in (NEAR, NEAR, far):
        cluster.add(5, distance)
    cluster.run(FAR_WARM_UP)
    since = cluster.clock.seconds()
    first_rate, second_rate, distant = cluster.rates(FAR_LONG)
    assert fair([first_rate, second_rate])
    assert first_rate + second_rate > 0.6 * of_two
    assert distant > 0
    assert cluster.nodes[2].longest(since, since + FAR_LONG) < 4.0


def test_node_with_few_steps_is_served_soon_and_delays_no_other() -> None:
    cluster = start(5, 5)
    before = sum(cluster.rates())
    seldom = cluster.add(0)
    cluster.run(0.1)
    since = cluster.clock.seconds()
    for _ in range(5):
        seldom.ask(cluster.clock)
        cluster.run(0.1)
    until = cluster.clock.seconds()
    assert len(seldom.answers) == 5
    assert seldom.longest(since, until) < 0.05
    first_rate, second_rate, _ = (node.rate(since, until) for node in cluster.nodes)
    assert fair([first_rate, second_rate])
    assert first_rate + second_rate > 0.8 * before
