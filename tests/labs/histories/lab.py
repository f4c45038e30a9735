"""
Kills of the active worker, and one check of the records of all clients.

The clients make reads, steps, and steps with a precondition.  Their records must be
linearizable, with the history as the order of the steps.

C{python -m tests.labs.histories.lab [KILLS]} is the long form; the test calls L{histories}
with fewer kills.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from attrs import Factory, define, frozen

from pexservice.core.cursor import Transition
from tests.labs.failover.lab import JOURNAL
from tests.support.clients import Client, _number, running, whole_history
from tests.support.daemon import Daemon, wait_until
from tests.support.evidence import record, run_lab
from tests.support.linearizability import Record, faults, positions

CLIENTS = 16

#: The shortest and the longest time of load before each kill, in seconds.
LOAD = (0.05, 0.25)

#: How many operations there are before each kill.
MIN_OPERATIONS = 50

OPERATIONS = ["current", *(transition.word for transition in Transition)]


@define(eq=False)
class RecordingClient(Client):
    """
    A client that records the times of its requests, and the responses.

    @ivar records: all operations, also those with an unknown outcome.
    @ivar last: the revision in its last response.
    """

    records: list[Record] = Factory(list)
    last: int = 0

    def record_response(
        self, operation: Transition | None, began: float, response: bytes
    ) -> int:
        """
        Record an operation and its response, and return the status of the response.
        """
        ended, status = time.monotonic(), int(response[9:12])
        if status not in (200, 412):
            self.surprises.append(response.decode())
            return status
        self.last, position = (
            _number(name, response) for name in (rb"Pex-Revision", rb"Pex-Position")
        )
        self.replayed += b"\r\nIdempotency-Replayed: true\r\n" in response
        self.records.append(
            Record(
                client=self.number,
                # A client whose precondition failed has read the cursor.
                operation=operation if status == HTTPStatus.OK else None,
                called=began,
                returned=ended,
                seen=(self.last, position),
            )
        )
        return status


@define(eq=False)
class Historian(RecordingClient):
    """
    A client that repeats a step without a response only if the step has a key.
    """

    def run(self) -> None:
        rng = random.Random(self.number)  # noqa: S311 nothing secret
        operation_count = 0
        while not self.stopping.is_set():
            operation_count += 1
            name = rng.choices(OPERATIONS, [40, 45, 14, 1])[0]
            if name == "current":
                self._ask(None, b"GET /current HTTP/1.1\r\nHost: localhost\r\n\r\n")
                continue
            # A third of the clients have keys, and repeat a step without a response.  Of
            # the other clients, every fourth step has the precondition that the cursor is
            # at the last known revision.
            header, repeats = "", self.number % 3 == 0
            if repeats:
                header = f"Idempotency-Key: {self.number}-{operation_count}\r\n"
            elif rng.random() < 1 / 4:
                header = f'If-Match: "{self.last}"\r\n'
            request = f"POST /{name} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
            self._ask(Transition[name.upper()], request, repeats=repeats)
        self._close()

    def _ask(
        self, operation: Transition | None, request: bytes, *, repeats: bool = False
    ) -> None:
        began = time.monotonic()
        while not self.stopping.is_set():
            try:
                response = self._exchange(request)
            except OSError:
                self.broken += 1
                self._close()
                if not repeats:
                    break
                continue
            if self.fresh or b"\r\nConnection: close\r\n" in response:
                self._close()
            self.record_response(operation, began, response)
            return
        self.records.append(Record(client=self.number, operation=operation, called=began))


@frozen
class Result:
    """
    The figures of a run.

    @ivar unknown: operations with an unknown outcome.
    @ivar replayed: steps whose repetition got a replay.
    """

    kills: int
    operations: int
    reads: int
    unknown: int
    replayed: int


def until_recorded(clients: Sequence[Historian], more: int) -> None:
    """
    Wait until the clients have recorded so many more operations.
    """

    def operation_count() -> int:
        return sum(len(client.records) for client in clients)

    before = operation_count()
    wait_until(lambda: operation_count() >= before + more, f"{more} more operations")


def journal_of(daemon: Daemon) -> Sequence[Transition]:
    """
    Return the transitions in the history of a daemon.

    @raise AssertionError: the history contradicts itself.
    """
    rows = whole_history(daemon)
    journal = [Transition[rows[n][1].upper()] for n in range(1, len(rows) + 1)]
    assert [0, *(rows[n][0] for n in range(1, len(rows) + 1))] == positions(journal)
    return journal


def histories(path: Path, kills: int, *options: str) -> Result:
    """
    Kill the active worker so often, and check the records of the clients.

    @param options: options of the daemon.
    @raise AssertionError: the records are not linearizable.
    """
    rng = random.Random(kills)  # noqa: S311 nothing secret
    with Daemon(path, "--journal", JOURNAL, *options) as daemon:
        clients = [Historian(n, daemon.port, fresh=n % 4 == 0) for n in range(CLIENTS)]
        with running(clients):
            for number in range(kills):
                daemon.until_logged("serves", number + 1)
                daemon.until_logged("stands by", number + 1)
                until_recorded(clients, MIN_OPERATIONS)
                time.sleep(rng.uniform(*LOAD))
                _, pid = daemon.active_worker()
                os.kill(pid, signal.SIGKILL)
            daemon.until_logged("serves", kills + 1)
        journal = journal_of(daemon)
    assert [surprise for client in clients for surprise in client.surprises] == []
    records = [record for client in clients for record in client.records]
    contradictions = faults(records, journal)
    assert not contradictions, "\n".join(
        [f"{len(contradictions)} faults", *contradictions[:20]]
    )
    result = Result(
        kills,
        len(records),
        sum(record.operation is None for record in records),
        sum(record.seen is None for record in records),
        sum(client.replayed for client in clients),
    )
    record(
        "histories",
        promise="All clients see one cursor: a request sees every step that was"
        " acknowledged before it began, across every crash.",
        size=result.operations,
        unit="operations",
        result=f"{CLIENTS} concurrent clients, {kills} SIGKILLs of the active"
        f" worker, {result.reads:,} reads, {result.unknown:,} outcomes unknown:"
        " the record is linearizable",
        command="make histories",
    )
    return result


if __name__ == "__main__":
    run_lab(histories, 200)
