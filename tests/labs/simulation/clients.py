"""
Clients that record their requests and responses.
"""

from __future__ import annotations

import math
from functools import partial

from attrs import Factory, define

from pexservice.commit.interface import KeyReused, Outcome, Step
from pexservice.core.cursor import State, Transition
from pexservice.stores.errors import OutcomeUnknown, Refusal
from tests.labs.simulation.machine import Machine, Request, Result
from tests.support.linearizability import Record
from tests.support.steps import Response

CLIENTS = 5


@define(eq=False)
class Client:
    """
    A client that makes one operation at a time.

    @ivar pending: the operation that it waits for.
    @ivar last: the revision in its last response.
    @ivar first_uses: by key, the first operation with this key.
    """

    number: int
    pending: PendingOperation | None = None
    last: int = 0
    keys: int = 0
    first_uses: dict[bytes | None, PendingOperation] = Factory(dict)


@define(eq=False)
class PendingOperation:
    """
    One operation of one client, which may be sent several times.

    @ivar open_requests: how many of its requests have no result yet.
    @ivar may_be_stored: one of the requests had an unknown outcome.
    @ivar is_finished: the client waits for it no longer.
    @ivar first_use: the earlier operation that used its key, as far as the client knows.
    @ivar is_applied: one response was not a replay; only one may be.
    @ivar seen: the revision and the position in the first response.
    """

    client: Client
    operation: Transition | None
    called: int
    step: Step | None
    key: bytes | None
    first_use: PendingOperation | None
    open_requests: int = 0
    may_be_stored: bool = False
    is_finished: bool = False
    is_applied: bool = False
    seen: tuple[int, int] | None = None


class Clients:
    """
    All clients of a run.

    @ivar records: what they recorded.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rng = machine.rng
        self.records: list[Record] = []
        self.clients = [Client(number) for number in range(CLIENTS)]
        self.requests = 0

    @property
    def waiting(self) -> int:
        """
        Return how many clients wait for a result.
        """
        return sum(client.pending is not None for client in self.clients)

    def ask(self) -> None:
        """
        Let a client that waits for nothing begin an operation.
        """
        rng = self.rng
        client = rng.choice(self.clients)
        if client.pending is not None:
            return
        operation = rng.choice([None, *Transition, Transition.NEXT])
        step, key, precondition = None, None, None
        if operation is not None:
            kind = rng.randrange(6)
            if kind < 3:
                client.keys += 1
                key = b"%d-%d" % (client.number, client.keys)
            elif kind == 3 and client.first_uses:
                key = rng.choice([*client.first_uses])
            elif kind == 4:
                precondition = partial(_is_at, client.last)
            step = Step(operation, key, precondition)
        client.pending = PendingOperation(
            client, operation, self.machine.tick, step, key, client.first_uses.get(key)
        )
        request = "current" if operation is None else operation.word
        request += "" if key is None else f", key {key.decode()}"
        request += "" if precondition is None else f", at {client.last}"
        self.machine.note(f"client {client.number} asks for {request}")
        self._send(client.pending)

    def _send(self, pending: PendingOperation) -> None:
        self.requests += 1
        pending.open_requests += 1
        deliver = partial(self._deliver_result, pending)
        variant = self.rng.randrange(2)
        self.machine.backlog.append(Request(self.requests, pending.step, deliver, variant))

    def _deliver_result(self, pending: PendingOperation, result: Result) -> None:
        """
        Give a client the result of a request; C{None} means that the connection broke.
        """
        self.machine.note(f"client {pending.client.number} gets {result!r}")
        pending.open_requests -= 1
        if isinstance(result, Response):
            if result.outcome is not Outcome.PRECONDITION_FAILED:
                self._succeeded(pending, result)
            elif not pending.is_finished:
                # A client whose precondition failed has read the cursor.
                self._end(pending, None, result.state.cursor)
        elif pending.is_finished:
            return
        elif isinstance(result, tuple):
            self._end(pending, None, result)
        elif isinstance(result, KeyReused):
            first = pending.first_use
            assert first is not None
            assert first.operation is result.used is not pending.operation
            self._end(pending, pending.operation)
        elif pending.operation is None:
            # A failed read has seen nothing.
            self._end(pending, None, unknown=True)
        else:
            self._failed(pending, result)

    def _failed(self, pending: PendingOperation, result: Result) -> None:
        assert result is None or isinstance(result, (Refusal, OutcomeUnknown)), result
        pending.may_be_stored |= not isinstance(result, Refusal)
        if pending.key is not None and self.rng.random() < 0.8:
            self._send(pending)
        else:
            unknown = pending.may_be_stored or pending.open_requests > 0
            self._end(pending, pending.operation, unknown=unknown)

    def _succeeded(self, pending: PendingOperation, response: Response) -> None:
        seen = response.state.cursor
        first = pending.client.first_uses.get(pending.key)
        if response.outcome is Outcome.APPLIED:
            assert not pending.is_applied, f"{pending.key!r} made two steps"
            assert pending.first_use is None, f"{pending.key!r} made another step"
            pending.is_applied = True
        if first is not None:
            assert first.operation is pending.operation, f"{pending.key!r} for another step"
            assert first.seen == seen, f"{pending.key!r} replayed another step"
        if pending.is_finished:
            return
        if pending.key is not None and first is None:
            pending.seen = seen
            pending.client.first_uses[pending.key] = pending
        self._end(pending, pending.operation, seen)

    def _end(
        self,
        pending: PendingOperation,
        operation: Transition | None,
        seen: tuple[int, int] | None = None,
        *,
        unknown: bool = False,
    ) -> None:
        """
        Record a response, a refusal if there is no C{seen}, or an unknown outcome.
        """
        client = pending.client
        client.pending = None
        pending.is_finished = True
        if seen is not None:
            client.last = seen[0]
        # A step that was made before has its record already.
        if pending.first_use is None:
            self.records.append(
                Record(
                    client=client.number,
                    operation=operation,
                    called=pending.called,
                    returned=math.inf if unknown else self.machine.tick,
                    seen=seen,
                    refused=seen is None and not unknown,
                )
            )

    def repeat(self) -> None:
        """
        Let a client send its request again while it waits.
        """
        client = self.rng.choice(self.clients)
        if client.pending is not None and client.pending.key is not None:
            self.machine.note(f"client {client.number} repeats")
            self._send(client.pending)


def _is_at(revision: int, state: State) -> bool:
    return state.revision == revision
