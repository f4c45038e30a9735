"""
Many nodes on one cursor, pumped one step at a time, and by chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from attrs import define, evolve
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from pexservice.commit.interface import CommitterBug, KeyReused, Outcome, Step
from pexservice.commit.optimistic import OptimisticCommitter
from pexservice.core.cursor import State, Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal
from pexservice.stores.etcd.gateway import CALL_TIMEOUT_SECONDS, CallRefused, CallUnanswered
from pexservice.stores.etcd.messages import MAX_BATCH_KEYS
from pexservice.stores.etcd.records import base64_text
from pexservice.stores.etcd.store import EtcdStore
from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import ABOVE_ALL, Turns, collected, now
from tests.support.forms import amount
from tests.support.linearizability import Record, faults
from tests.support.steps import Response, collect, read, submit

NEXT, PREVIOUS, RESET = Transition.NEXT, Transition.PREVIOUS, Transition.RESET

#: How many seeds the simulation is run with.
SEEDS = amount(short=12, long=60)


class Node:
    """
    One of many nodes, whose messages the test has in its hands.
    """

    def __init__(self, etcd: FakeEtcd, clock: Turns) -> None:
        self.clock = clock
        self.gateway = FakeGateway(etcd, clock)
        self.fatal: list[Failure] = []
        self.committer = OptimisticCommitter(
            EtcdStore(self.gateway, "p/"),
            clock,
            on_fatal_failure=self.fatal.append,
            time_ns=lambda: 7,
        )
        now(Deferred.fromCoroutine(self.committer.start()))
        self.gateway.open = False

    def submit(self, transition: Transition = NEXT, **kwargs: object) -> list[object]:
        """
        Submit a step; see L{collect}.
        """
        return collect(self.committer, Step(transition, **kwargs))  # type: ignore[arg-type]

    def read(self) -> list[object]:
        """
        Read the cursor.

        @return: a list that gets it, or the exception.
        """
        state = self.committer.read_durable()
        return collected(state.addCallback(lambda state: state.cursor))

    def turn(self) -> None:
        """
        Let a batch that gathers be sent.
        """
        self.clock.turn(0.01)
        self.clock.turn()

    def result(self, transition: Transition = NEXT, **kwargs: object) -> object:
        """
        Submit a step, and have everything answered.

        @return: (outcome, revision, position), or the exception.
        """
        outcomes = self.submit(transition, **kwargs)
        self.settle()
        (outcome,) = outcomes
        return outcome

    def settle(self) -> None:
        """
        Have everything answered.
        """
        for _ in range(100):
            self.turn()
            while self.gateway.news:
                self.gateway.hear()
            while self.gateway.waiting:
                self.gateway.answer()


@pytest.fixture
def node() -> Node:
    return Node(FakeEtcd(), Turns())


@pytest.fixture
def other_node(node: Node) -> Node:
    return Node(node.gateway.etcd, node.clock)


def at(revision: int) -> Callable[[State], bool]:
    """
    Return the precondition that the cursor is at C{revision}.
    """
    return lambda state: state.revision == revision


def test_steps_that_lose_the_race_follow_the_winners_in_order(
    node: Node, other_node: Node
) -> None:
    """
    Steps that arrived meanwhile are in the same batch.
    """
    outcomes = [node.submit(), node.submit(RESET), node.submit()]
    node.turn()
    assert other_node.result() == (Outcome.APPLIED, 1, 1)
    outcomes.append(node.submit())
    node.settle()
    assert outcomes == [
        [(Outcome.APPLIED, 2, 2)],
        [(Outcome.APPLIED, 3, 0)],
        [(Outcome.APPLIED, 4, 1)],
        [(Outcome.APPLIED, 5, 2)],
    ]


@pytest.mark.parametrize("method", ["turn", "commit"])
def test_bug_in_the_store_ends_the_commit_and_the_process(
    node: Node, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(node.committer._store, method, lambda *_: fail(KeyError()))
    wanted = {"turn": Refusal, "commit": OutcomeUnknown}[method]
    assert type(node.result()) is wanted
    assert [failure.type for failure in node.fatal] == [CommitterBug]
    assert isinstance(node.submit()[0], Refusal)
    node.gateway.open = True
    now(Deferred.fromCoroutine(node.committer.stop()))


def test_damaged_key_record_refuses_the_requests_with_that_key_only(node: Node) -> None:
    node.gateway.etcd.put(b"p/keys/bad", b"{}")
    damaged, sound = node.submit(key=b"bad"), node.submit(key=b"k")
    node.settle()
    assert isinstance(damaged[0], Refusal)
    assert str(damaged[0]) == "the record b'p/keys/bad' is not of this program"
    assert sound == [(Outcome.APPLIED, 1, 1)]
    assert node.committer.step_refusal is None
    # A precondition that is not met looks the key up.
    assert isinstance(node.result(key=b"bad", precondition=lambda _: False), Refusal)


def test_key_used_at_another_node_is_compared_with_that_use(
    node: Node, other_node: Node
) -> None:
    """
    A wrong use of the key at the same node does not hide the first use.
    """
    node.result(RESET, key=b"k")
    wrong, repeated = other_node.submit(NEXT, key=b"k"), other_node.submit(RESET, key=b"k")
    other_node.settle()
    assert isinstance(wrong[0], KeyReused)
    assert wrong[0].used is RESET
    assert repeated == [(Outcome.REPLAYED, 1, 0)]


def test_step_whose_precondition_others_broke_gets_the_compared_state(
    node: Node, other_node: Node
) -> None:
    """
    The precondition was met when the step arrived.
    """
    outcomes = node.submit(precondition=at(0))
    node.turn()
    other_node.result()
    node.settle()
    assert outcomes == [(Outcome.PRECONDITION_FAILED, 1, 1)]


def test_precondition_is_compared_with_the_state_of_the_store(
    node: Node, other_node: Node
) -> None:
    """
    The node's own state does not meet it.
    """
    other_node.result()
    assert node.result(precondition=at(1)) == (Outcome.APPLIED, 2, 2)


def test_unmet_precondition_is_answered_by_the_store_and_not_by_the_committing_batch(
    node: Node, other_node: Node
) -> None:
    """
    Other nodes may have moved the cursor since the committing batch happened.
    """
    node.submit()
    node.turn()
    node.gateway.reach()
    other_node.result()
    assert node.result(precondition=at(0)) == (Outcome.PRECONDITION_FAILED, 2, 2)


def test_unmet_precondition_sends_no_message_while_a_batch_may_decide_it(
    node: Node,
) -> None:
    """
    The end of the batch shows where the cursor is, and answers the steps of the batch.
    """
    outcomes = [node.submit(), node.submit(precondition=at(0))]
    assert node.gateway.waiting == []
    node.turn()
    outcomes.append(node.submit(precondition=at(0)))
    node.turn()
    assert outcomes == [[], [], []]
    assert len(node.gateway.waiting) == 1
    node.gateway.answer()
    unmet = [(Outcome.PRECONDITION_FAILED, 1, 1)]
    assert outcomes == [[(Outcome.APPLIED, 1, 1)], unmet, []]
    node.settle()
    assert outcomes[2] == unmet


@pytest.mark.parametrize("busy", [False, True])
def test_repeated_key_gets_its_first_outcome_at_any_node(
    node: Node, other_node: Node, *, busy: bool
) -> None:
    """
    Its precondition was met the first time, and need not be met any more.
    """
    assert node.result(key=b"k", precondition=at(0)) == (Outcome.APPLIED, 1, 1)
    for repeating in (node, other_node):
        if busy:
            repeating.submit()
        again = repeating.submit(key=b"k", precondition=at(0))
        assert isinstance(repeating.result(RESET, key=b"k", precondition=at(0)), KeyReused)
        assert again == [(Outcome.REPLAYED, 1, 1)]
    assert other_node.submit(key=b"l", precondition=at(0)) == []


def test_key_of_a_step_with_unmet_precondition_is_not_used(
    node: Node, other_node: Node
) -> None:
    """
    A step whose precondition the committing batch may meet waits for that batch.
    """
    other_node.result()
    node.settle()
    outcomes = [node.submit(), node.submit(key=b"k", precondition=at(2))]
    node.settle()
    assert outcomes == [[(Outcome.APPLIED, 2, 2)], [(Outcome.APPLIED, 3, 3)]]
    outcomes = [
        node.submit(),
        node.submit(key=b"l", precondition=at(3)),
        node.submit(key=b"m", precondition=at(4)),
    ]
    node.turn()
    outcomes.append(node.submit(key=b"l", precondition=at(3)))
    node.settle()
    assert outcomes == [
        [(Outcome.APPLIED, 4, 4)],
        [(Outcome.PRECONDITION_FAILED, 5, 5)],
        [(Outcome.APPLIED, 5, 5)],
        [(Outcome.PRECONDITION_FAILED, 5, 5)],
    ]


def test_reads_at_one_time_share_a_message_to_etcd(node: Node, other_node: Node) -> None:
    """
    A read that arrives after the message was sent waits for the next one.
    """
    reads = [node.read(), node.read(), node.read()]
    node.gateway.lose_answer()
    assert len(node.gateway.waiting) == 0
    other_node.result()
    node.settle()
    assert reads == [[(1, 1)]] * 3
    assert node.committer.durable.position == 1


def test_read_that_is_answered_late_does_not_take_the_node_back(node: Node) -> None:
    outcomes = node.read()
    node.gateway.reach()
    late = node.gateway.waiting.pop()
    assert node.result() == (Outcome.APPLIED, 1, 1)
    node.gateway.waiting.append(late)
    node.gateway.answer()
    assert outcomes == [(1, 1)]
    assert node.committer.durable.revision == 1


def test_reads_that_arrive_during_a_failing_read_fail_with_it(node: Node) -> None:
    """
    On a node that is cut off no read takes longer than five seconds.
    """
    reads, since = [node.read()], node.clock.seconds()
    while not reads[0]:
        reads.append(node.read())
        while node.gateway.waiting:
            node.gateway.lose()
        node.clock.turn(0.5)
    assert node.clock.seconds() - since <= CALL_TIMEOUT_SECONDS
    assert all(isinstance(read[0], Refusal) for read in reads)


def test_reason_is_logged_again_only_when_the_fault_has_changed(node: Node) -> None:
    """
    An etcd that is away and then empty is two lines, however many attempts there were.
    """
    with capturedLogs() as logs:
        for number in range(40):
            node.clock.turn(0.5)
            while node.gateway.waiting:
                node.gateway.fail(
                    CallUnanswered(f"http://h{number % 3}:1: gone", sent=True)
                )
        node.gateway.etcd.values.clear()
        for _ in range(3):
            node.clock.turn(1)
            node.settle()
    assert "lost the key" in str(node.committer.step_refusal)
    lines = [(formatEvent(event) or "").partition(": ")[2][:17] for event in logs]
    assert lines == ["etcd does not ans", "etcd has lost the"]


def test_store_with_an_unreadable_cursor_takes_no_steps_again(node: Node) -> None:
    values = node.gateway.etcd.values
    sound = values[b"p/cursor"]
    values[b"p/cursor"] = evolve(sound, value=base64_text(b"{}"))
    with capturedLogs() as events:
        node.submit()
        for _ in range(3):
            node.clock.advance(1)
            node.settle()
        values[b"p/cursor"] = sound
        node.clock.advance(1)
        node.settle()
    reason = "the record b'p/cursor' is not of this program"
    assert [formatEvent(event) for event in events] == [
        f"steps are refused: {reason}",
        f"requests are refused: {reason}",
        "the store responds again",
        "steps are accepted again",
    ]


@pytest.mark.parametrize("fault", ["alarmed", "read_only"])
def test_node_is_not_ready_while_etcd_would_refuse_a_batch(node: Node, fault: str) -> None:
    """
    Steps are refused with etcd's reason, logged once; reads are answered.
    """
    setattr(node.gateway.etcd, fault, True)
    with capturedLogs() as logs:
        for _ in range(3):
            node.clock.turn(1)
            node.settle()
        refused = [node.submit() for _ in range(100)]
        read = node.read()
        node.settle()
    assert read == [(0, 0)]
    assert node.committer.step_refusal is not None
    assert {str(refusal[0]) for refusal in refused} == {str(node.committer.step_refusal)}
    assert [event["log_level"].name for event in logs] == ["error"]
    setattr(node.gateway.etcd, fault, False)
    node.clock.turn(1)
    node.settle()
    assert node.committer.step_refusal is None
    assert node.result() == (Outcome.APPLIED, 1, 1)


def test_late_answer_to_a_probe_does_not_withdraw_the_refusal_of_a_batch(
    node: Node,
) -> None:
    node.clock.turn(1)
    node.gateway.reach()
    probe = node.gateway.waiting.pop()
    node.gateway.etcd.alarmed = True
    refused = node.submit()
    node.turn()
    while node.gateway.waiting:
        node.gateway.answer()
    assert isinstance(refused[0], Refusal)
    node.gateway.waiting.append(probe)
    while node.gateway.waiting:
        node.gateway.answer()
    assert node.committer.step_refusal is refused[0]


def test_node_refuses_steps_after_an_unknown_outcome_until_the_store_answers(
    node: Node,
) -> None:
    outcomes, behind = node.submit(key=b"k"), None
    while not outcomes:
        node.turn()
        behind = behind or node.submit()
        while node.gateway.waiting:
            node.gateway.lose()
        node.clock.turn(1)
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert behind is not None
    assert node.committer.step_refusal is not None
    for refused in (behind, node.submit(), node.read()):
        assert isinstance(refused[0], Refusal)
    assert node.fatal == []
    # The message that was sent arrives late.
    node.gateway.arrive()
    node.clock.turn(1)
    node.settle()
    assert node.committer.step_refusal is None
    assert node.result(key=b"k") == (Outcome.REPLAYED, 1, 1)


def test_node_continues_from_a_snapshot_that_etcd_was_restored_from(
    node: Node, other_node: Node
) -> None:
    etcd = node.gateway.etcd
    for _ in range(2):
        other_node.result()
    snapshot = etcd.snapshot()
    for _ in range(5):
        node.result()
    etcd.restore(snapshot)
    outcomes = [node.submit(), node.submit(precondition=lambda state: state.revision < 7)]
    node.settle()
    assert outcomes == [[(Outcome.APPLIED, 3, 3)], [(Outcome.APPLIED, 4, 4)]]
    assert node.result(precondition=at(4)) == (Outcome.APPLIED, 5, 5)


def test_no_batch_has_more_keys_than_etcd_accepts(node: Node, other_node: Node) -> None:
    """
    Also after a lost race. All steps are made.
    """
    count = 3 * MAX_BATCH_KEYS + 1
    outcomes = [node.submit(key=b"%d" % number) for number in range(count)]
    node.turn()
    other_node.result()
    node.settle()
    assert outcomes == [
        [(Outcome.APPLIED, number + 2, number + 2)] for number in range(count)
    ]
    sizes = [len(change["compare"]) - 3 for change in node.gateway.etcd.changes]
    assert max(sizes) == MAX_BATCH_KEYS


def test_stopping_node_commits_accepted_steps_and_refuses_later_ones(node: Node) -> None:
    outcomes = node.submit()
    stopped = Deferred.fromCoroutine(node.committer.stop())
    assert isinstance(node.submit()[0], Refusal)
    node.settle()
    assert outcomes == [(Outcome.APPLIED, 1, 1)]
    assert now(stopped) is None


@define(eq=False)
class Request:
    """
    A request of a client, which repeats the request until its end is known if it has a key.

    @ivar record: the request without its response.
    """

    record: Record
    step: Step | None = None


class Chance:
    """
    A simulation of nodes, clients and a network, in an order that a seed chooses.

    @ivar asking: the requests under way, by node.
    """

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311 no secret
        self.etcd, self.clock = FakeEtcd(), Turns()
        self.records: list[Record] = []
        self.repeating: list[Request] = []
        self.asking: dict[Node, list[Request]] = {}
        for _ in range(3):
            self.asking[Node(self.etcd, self.clock)] = []
        self.time = self.requests = 0

    def run(self, steps: int) -> None:
        """
        Make C{steps} random steps, and then have everything answered.
        """
        choices = [
            *(self.ask, self.turn, self.network),
            *(self.crash, self.expire, self.outage, self.space),
        ]
        for _ in range(steps):
            self.time += 1
            (step,) = self.choose.choices(choices, [30, 30, 60, 0.3, 1, 0.3, 0.2])
            step(self.choose.choice(list(self.asking)))
        self.etcd.filling = self.etcd.alarmed = False
        for _ in range(30):
            self.time += 1
            self.clock.turn(0.5)
            for node in self.asking:
                while self.repeating and node.committer.step_refusal is None:
                    self._begin(node, self.repeating.pop())
                node.settle()
                assert node.fatal == []
        assert not self.repeating
        assert not any(self.asking.values())

    def ask(self, node: Node) -> None:
        """
        Have a client send a node a new request, or one that the client has sent before.
        """
        if self.repeating and self.choose.random() < 1 / 2:
            self._begin(node, self.repeating.pop(0))
            return
        self.requests += 1
        operation = self.choose.choice([None, NEXT, NEXT, PREVIOUS, RESET])
        request = Request(
            Record(client=self.requests, operation=operation, called=self.time)
        )
        if operation is not None:
            key = b"%d" % self.requests if self.choose.random() < 1 / 2 else None
            revision = self.choose.choice([node.committer.durable.revision, 0])
            precondition = at(revision) if self.choose.random() < 1 / 3 else None
            request.step = Step(operation, key, precondition)
        self._begin(node, request)

    def _begin(self, node: Node, request: Request) -> None:
        self.asking[node].append(request)

        def responded(response: Response) -> None:
            if self._ends(node, request):
                is_unmet = response.outcome is Outcome.PRECONDITION_FAILED
                operation = None if is_unmet else request.record.operation
                cursor = response.state.cursor
                self.records.append(
                    evolve(
                        request.record,
                        operation=operation,
                        returned=self.time,
                        seen=cursor,
                    )
                )

        def failed(failure: Failure) -> None:
            if self._ends(node, request):
                assert failure.check(Refusal, OutcomeUnknown)
                self._give_up(request, refused=bool(failure.check(Refusal)))

        if request.step is None:
            read(node.committer).addCallbacks(responded, failed)
        else:
            submit(node.committer, request.step).addCallbacks(responded, failed)

    def _ends(self, node: Node, request: Request) -> bool:
        """
        End C{request}, unless C{node} has crashed, so that no one receives its response.
        """
        if request not in self.asking.get(node, []):
            return False
        self.asking[node].remove(request)
        return True

    def _give_up(self, request: Request, *, refused: bool = False) -> None:
        if request.step is not None and request.step.key is not None:
            self.repeating.append(request)
        else:
            self.records.append(evolve(request.record, refused=refused))

    def turn(self, node: Node) -> None:
        """
        Let time pass.
        """
        self.clock.turn(self.choose.choice([0, 0, 0.001, 0.1]))

    def network(self, node: Node) -> None:
        """
        Choose the fate of a message.
        """
        gateway = node.gateway
        if gateway.news and self.choose.random() < 1 / 2:
            # News is missed when the watch has ended, and has begun again after it.
            if self.choose.random() < 9 / 10:
                gateway.hear()
            else:
                gateway.miss()
        elif gateway.loose and self.choose.random() < 1 / 10:
            self.choose.shuffle(gateway.loose)
            gateway.arrive()
        elif gateway.waiting:
            self.choose.shuffle(gateway.waiting)
            fates = [
                *(gateway.answer, gateway.reach, gateway.lose_answer, gateway.lose),
                lambda: gateway.fail(CallRefused(8, "no space")),
            ]
            # No transaction is refused that etcd has done.
            refusals = 1 if gateway.waiting[0].answer is None else 0
            (fate,) = self.choose.choices(fates, [60, 20, 10, 10, refusals])
            fate()

    def outage(self, node: Node) -> None:
        """
        Let no answer come to a node for long, and maybe no message arrive.
        """
        gateway = node.gateway
        fate = self.choose.choice([gateway.lose, gateway.lose_answer])
        for _ in range(70):
            while gateway.waiting:
                fate()
            self.clock.turn(0.1)

    def crash(self, node: Node) -> None:
        """
        Let a node die, with the messages that it has sent still under way.
        """
        # Without space no process can start.
        self.etcd.filling = self.etcd.alarmed = False
        fresh = Node(self.etcd, self.clock)
        fresh.gateway.loose = [*node.gateway.loose, *node.gateway.waiting]
        for request in self.asking.pop(node):
            self._give_up(request)
        # The dead node gets no answers any more.
        node.gateway.waiting = []
        node.committer._probing.stop()
        self.asking[fresh] = []

    def space(self, node: Node) -> None:
        """
        Let the space of etcd end with the next transaction, or make some.
        """
        self.etcd.filling = not (self.etcd.filling or self.etcd.alarmed)
        self.etcd.alarmed = False

    def expire(self, node: Node) -> None:
        """
        Let the lease of an operation key end.
        """
        self.etcd.expire(str(self.choose.randint(1, self.etcd.leases)))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_network_faults_of_three_nodes_leave_one_linearizable_cursor(
    seed: int,
) -> None:
    """
    Each key makes one step.
    """
    chance = Chance(seed)
    chance.run(1500)
    node = Node(chance.etcd, chance.clock)
    node.gateway.open = True
    rows = now(node.committer.history(ABOVE_ALL, 100_000))
    journal = [row.transition for row in reversed(rows)]
    assert len(chance.records) == chance.requests
    assert faults(chance.records, journal) == []
    assert len(journal) > 50
