"""
Kills of the active worker, and one check of the records of all clients.

The clients make reads, steps, and steps with a precondition.  Their records must be
linearizable, with the history as the order of the steps.

C{python -m tests.labs.histories.lab [KILLS]} is the long form; the test calls L{histories}
with fewer kills.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from attrs import Factory, define, frozen

from pexservice.core.cursor import Transition
from tests.labs.failover.lab import JOURNAL, kill_under_load
from tests.support.clients import Client, _number, running, surprises, whole_history
from tests.support.daemon import Daemon, wait_until
from tests.support.evidence import record, run_lab
from tests.support.linearizability import Record, positions, require_linearizable

CLIENTS = 16

#: How many operations there are before each kill.
MIN_OPERATIONS = 50

OPERATIONS = ["current", *(transition.word for transition in Transition)]


@define(eq=False)
class RecordingClient(Client):
    """
    A client that records its requests and the responses.

    It repeats a request that has a key until it gets a response, at the next port each
    time, also after a response with status 503.

    @ivar ports: the ports of the nodes; if there are none, C{port} is the only one.
    @ivar prefix: the beginning of its keys.
    @ivar records: all operations, also those with an unknown outcome.
    @ivar last: the revision in its last response.
    @ivar keys: by key, the revision in the response.
    @ivar response_counts: how many responses arrived from each port.
    """

    patient: bool = True
    ports: Sequence[int] = ()
    prefix: str = ""
    records: list[Record] = Factory(list)
    last: int = 0
    keys: dict[str, int] = Factory(dict)
    response_counts: dict[int, int] = Factory(dict)

    def run(self) -> None:
        rng = random.Random(self.number)  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set():
            count += 1
            if self.ports and rng.random() < 1 / 30:
                # Sometimes return to a node that failed before.
                self._close()
                self.port = rng.choice(self.ports)
            name = rng.choices(OPERATIONS, [30, 50, 19, 1])[0]
            if name == "current":
                self._record(None, None)
                continue
            key = f"{self.prefix}{self.number}-{count}" if self.number % 2 else None
            # Every fourth step has the precondition that the cursor is still at the last
            # known revision.  Such a step may have a key too, and be repeated.
            has_precondition = rng.random() < 1 / 4
            header = f'If-Match: "{self.last}"\r\n' if has_precondition else ""
            self._record(Transition[name.upper()], key, header)
        self._close()

    def _switch_node(self) -> None:
        self._close()
        if self.ports:
            self.port = self.ports[(self.ports.index(self.port) + 1) % len(self.ports)]
        # A client that is refused at once must not send a thousand requests per second.
        time.sleep(0.05)

    def _record(
        self, operation: Transition | None, key: str | None, header: str = ""
    ) -> None:
        """
        Make a request, and record it with its response.
        """
        began = time.monotonic()
        word = "current" if operation is None else operation.word
        response = self._ask(word, key, header)
        if not response or response.startswith(b"HTTP/1.1 503 "):
            self._switch_node()
            refused = b"nothing was moved" in response
            self.records.append(
                Record(
                    client=self.number, operation=operation, called=began, refused=refused
                )
            )
            return
        ended, status = time.monotonic(), int(response[9:12])
        self.response_counts[self.port] = self.response_counts.get(self.port, 0) + 1
        if status not in (HTTPStatus.OK, HTTPStatus.PRECONDITION_FAILED):
            self.surprises.append(response.decode())
            return
        self.last, position = (
            _number(name, response) for name in (rb"Pex-Revision", rb"Pex-Position")
        )
        self.replayed += b"\r\nIdempotency-Replayed: true\r\n" in response
        if status == HTTPStatus.PRECONDITION_FAILED:
            # The client has read the cursor.
            operation = None
        elif key is not None:
            self.keys[key] = self.last
        self.records.append(
            Record(
                client=self.number,
                operation=operation,
                called=began,
                returned=ended,
                seen=(self.last, position),
            )
        )


@frozen
class Figures:
    """
    The figures of some clients.

    @ivar unknown: operations with an unknown outcome.
    @ivar replayed: steps whose repetition got a replay.
    @ivar unavailable: responses with status 503.
    """

    operations: int
    reads: int
    unknown: int
    replayed: int
    unavailable: int


def check_records(
    clients: Sequence[RecordingClient], journal: Sequence[Transition]
) -> Figures:
    """
    Check the records of clients that have stopped.

    @raise AssertionError: the records are not linearizable.
    """
    assert surprises(clients) == []
    records = [record for client in clients for record in client.records]
    require_linearizable(records, journal)
    return Figures(
        len(records),
        sum(record.operation is None for record in records),
        sum(record.seen is None and not record.refused for record in records),
        sum(client.replayed for client in clients),
        sum(client.unavailable for client in clients),
    )


def journal_of(daemon: Daemon) -> Sequence[Transition]:
    """
    Return the transitions in the history of a daemon.

    @raise AssertionError: the history contradicts itself.
    """
    rows = whole_history(daemon)
    journal = [Transition[rows[n][1].upper()] for n in range(1, len(rows) + 1)]
    assert [0, *(rows[n][0] for n in range(1, len(rows) + 1))] == positions(journal)
    return journal


def histories(path: Path, kills: int, *options: str) -> Figures:
    """
    Kill the active worker so often, and check the records of the clients.

    @param options: options of the daemon.
    @raise AssertionError: the records are not linearizable.
    """
    with Daemon(path, "--journal", JOURNAL, *options) as daemon:
        clients = [
            RecordingClient(n, daemon.port, fresh=n % 4 == 0) for n in range(CLIENTS)
        ]

        def wait_for_operations() -> None:
            more = sum(len(client.records) for client in clients) + MIN_OPERATIONS
            wait_until(
                lambda: sum(len(client.records) for client in clients) >= more,
                f"{MIN_OPERATIONS} more operations",
            )

        with running(clients):
            kill_under_load(daemon, kills, wait_for_operations)
        journal = journal_of(daemon)
    result = check_records(clients, journal)
    assert result.unavailable == 0
    record(
        "histories",
        promise="All clients see one cursor: a request sees every step that was"
        " acknowledged before it began, across every crash.",
        size=result.operations,
        unit="operations",
        result=f"{CLIENTS} concurrent clients, {kills} SIGKILLs of the active"
        f" worker, {result.reads:,} reads, {result.unknown:,} outcomes unknown:"
        " the record is linearizable",
    )
    return result


if __name__ == "__main__":
    run_lab(histories, 200)
