"""
Clients that record their requests and responses.
"""

from __future__ import annotations

from functools import partial

from attrs import Factory, define

from pexservice.commit.interface import KeyReused, Outcome, Step
from pexservice.core.cursor import State, Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal
from tests.labs.simulation.machine import Machine
from tests.labs.simulation.process import Answer, Request
from tests.support.linearizability import Record
from tests.support.steps import Response

CLIENTS = 5


@define(eq=False)
class Asking:
    """
    One operation of one client, however often it is sent.

    @ivar sent: how many requests for it have no answer yet.
    @ivar doubt: one of the requests broke off.
    @ivar again: its key has made its step before.
    @ivar moved: an answer said that it moved; other answers say that it had.
    @ivar seen: what the first answer said.
    """

    client: int
    operation: Transition | None
    called: int
    step: Step | None
    sent: int = 0
    doubt: bool = False
    over: bool = False
    again: bool = False
    moved: bool = False
    seen: tuple[int, int] | None = None

    @property
    def key(self) -> bytes | None:
        """
        Return the idempotency key of the operation.
        """
        return None if self.step is None else self.step.key


@define(eq=False)
class Client:
    """
    A client that does one thing at a time.

    @ivar asking: the operation that it waits for.
    @ivar last: the revision in its last response.
    @ivar known: the operations by which its keys made their steps.
    """

    number: int
    asking: Asking | None = None
    last: int = 0
    keys: int = 0
    known: list[Asking] = Factory(list)

    def first_use(self, key: bytes | None) -> Asking | None:
        """
        Return the operation that C{key} made, as far as the client knows.
        """
        return next((asking for asking in self.known if asking.key == key), None)


class Clients:
    """
    All clients of a run.

    @ivar records: what they wrote down.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.choose = machine.choose
        self.records: list[Record] = []
        self.clients = [Client(number) for number in range(CLIENTS)]
        self.requests = 0

    @property
    def waiting(self) -> int:
        """
        Return how many clients wait for an answer.
        """
        return sum(client.asking is not None for client in self.clients)

    def ask(self) -> None:
        """
        Have a client that waits for nothing ask for something.
        """
        choose = self.choose
        client = choose.choice(self.clients)
        if client.asking is not None:
            return
        operation = choose.choice([None, *Transition, Transition.NEXT])
        step, key, condition = None, None, None
        if operation is not None:
            kind = choose.randrange(6)
            if kind < 3:
                client.keys += 1
                key = b"%d-%d" % (client.number, client.keys)
            elif kind == 3 and client.known:
                key = choose.choice(client.known).key
            elif kind == 4:
                condition = partial(_is_at, client.last)
            step = Step(operation, key, condition)
        client.asking = Asking(client.number, operation, self.machine.tick, step)
        client.asking.again = client.first_use(key) is not None
        request = "current" if operation is None else operation.word
        request += "" if key is None else f", key {key.decode()}"
        request += "" if condition is None else f", at {client.last}"
        self.machine.note(f"client {client.number} asks for {request}")
        self._send(client, client.asking)

    def _send(self, client: Client, asking: Asking) -> None:
        self.requests += 1
        asking.sent += 1
        self.machine.backlog.append(
            Request(
                self.requests,
                asking.step,
                partial(self._answered, client, asking),
                self.choose.randrange(2),
            )
        )

    def _answered(self, client: Client, asking: Asking, answer: Answer) -> None:
        """
        Give a client an answer, or none.
        """
        self.machine.note(f"client {client.number} is told {answer!r}")
        asking.sent -= 1
        if (
            isinstance(answer, Response)
            and answer.outcome is not Outcome.PRECONDITION_FAILED
        ):
            self._moved(client, asking, answer)
        elif asking.over:
            return
        elif isinstance(answer, Response):
            # A client that learns that the cursor is elsewhere has read it.
            self._end(client, asking, None, (answer.state.revision, answer.state.position))
        elif isinstance(answer, tuple):
            self._end(client, asking, None, answer)
        elif isinstance(answer, KeyReused):
            self._reused(client, asking, answer)
        elif asking.operation is None:
            # A client that looked in vain has seen nothing.
            self._give_up(client, asking)
        else:
            self._failed(client, asking, answer)

    def _failed(self, client: Client, asking: Asking, answer: Answer) -> None:
        assert answer is None or isinstance(answer, (Refusal, OutcomeUnknown)), answer
        asking.doubt |= not isinstance(answer, Refusal)
        if asking.key is not None and self.choose.random() < 0.8:
            self._send(client, asking)
        elif asking.doubt or asking.sent:
            self._give_up(client, asking)
        else:
            self._end(client, asking, asking.operation, None)

    def _moved(self, client: Client, asking: Asking, response: Response) -> None:
        seen = (response.state.revision, response.state.position)
        first = client.first_use(asking.key)
        if response.outcome is Outcome.APPLIED:
            assert not asking.moved, f"{asking.key!r} moved twice"
            assert not asking.again, f"{asking.key!r} moved again"
            asking.moved = True
        if first is not None:
            assert first.operation is asking.operation, f"{asking.key!r} for another step"
            assert first.seen == seen, f"{asking.key!r} replayed another step"
        if asking.over:
            return
        if asking.key is not None and first is None:
            asking.seen = seen
            client.known.append(asking)
        self._end(client, asking, asking.operation, seen)

    def _reused(self, client: Client, asking: Asking, reused: KeyReused) -> None:
        first = client.first_use(asking.key)
        assert first is not None
        assert first.operation is reused.used is not asking.operation
        self._end(client, asking, asking.operation, None)

    def _end(
        self,
        client: Client,
        asking: Asking,
        operation: Transition | None,
        seen: tuple[int, int] | None,
    ) -> None:
        """
        Record a response; without C{seen}, it is a refusal.
        """
        if seen is not None:
            client.last = seen[0]
        self._write(
            asking,
            Record(
                client=client.number,
                operation=operation,
                called=asking.called,
                returned=self.machine.tick,
                seen=seen,
                refused=seen is None,
            ),
        )
        client.asking = None

    def _give_up(self, client: Client, asking: Asking) -> None:
        """
        Record an operation with an unknown outcome.
        """
        self._write(
            asking,
            Record(client=client.number, operation=asking.operation, called=asking.called),
        )
        client.asking = None

    def _write(self, asking: Asking, record: Record) -> None:
        asking.over = True
        # A step that was made before is written down already.
        if not asking.again:
            self.records.append(record)

    def repeat(self) -> None:
        """
        Have a client send the same request again without waiting for the answer.
        """
        client = self.choose.choice(self.clients)
        if client.asking is not None and client.asking.key is not None:
            self.machine.note(f"client {client.number} repeats")
            self._send(client, client.asking)


def _is_at(revision: int, state: State) -> bool:
    return state.revision == revision
