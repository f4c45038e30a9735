"""
Kills of the worker that serves, and one check of all answers together.

The clients step, look and step on a precondition.  Their answers are checked as a record of
one cursor.

C{python -m tests.labs.histories.lab [KILLS]} is the long form; the test calls
L{histories} with fewer kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from attrs import Factory, define, frozen

from pexservice.core.cursor import Transition
from tests.labs.failover.lab import JOURNAL, serving, until
from tests.support.clients import Client, _number, running, whole_history
from tests.support.daemon import Daemon, wait_until
from tests.support.evidence import Evidence, record
from tests.support.linearizability import Record, faults, positions

CLIENTS = 16

#: How long the load runs before each kill, at least and at most.  Seconds.
LOAD = (0.05, 0.25)

#: How many operations there are before that.
MIN_OPERATIONS = 50

_WORDS = ["current", *(transition.word for transition in Transition)]


@define(eq=False)
class RecordingClient(Client):
    """
    A client that writes down when it asked for which operation, and the answer.

    @ivar records: each operation, also those whose outcome it does not know.
    @ivar last: the revision in its last response.
    """

    records: list[Record] = Factory(list)
    last: int = 0

    def write_down(self, operation: Transition | None, called: float, answer: bytes) -> int:
        """
        Keep the record of an answered operation, and return the answer's status.
        """
        returned, status = time.monotonic(), int(answer[9:12])
        if status not in (200, 412):
            self.surprises.append(answer.decode())
            return status
        self.last, position = (
            _number(name, answer) for name in (rb"Pex-Revision", rb"Pex-Position")
        )
        self.replayed += b"\r\nIdempotency-Replayed: true\r\n" in answer
        self.records.append(
            Record(
                client=self.number,
                # A client that learns that the cursor is elsewhere has read it.
                operation=operation if status == HTTPStatus.OK else None,
                called=called,
                returned=returned,
                seen=(self.last, position),
            )
        )
        return status


@define(eq=False)
class Historian(RecordingClient):
    """
    A client that repeats a step without an answer only if the step has a key.
    """

    def run(self) -> None:
        """
        Ask until told to stop.
        """
        choose = random.Random(self.number)  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set():
            count += 1
            word = choose.choices(_WORDS, [40, 45, 14, 1])[0]
            if word == "current":
                self._ask(None, b"GET /current HTTP/1.1\r\nHost: localhost\r\n\r\n")
                continue
            # A third of the clients have keys and repeat a step without an answer; of the
            # others every fourth step is for the revision that was seen last only.
            header, repeats = "", self.number % 3 == 0
            if repeats:
                header = f"Idempotency-Key: {self.number}-{count}\r\n"
            elif choose.random() < 1 / 4:
                header = f'If-Match: "{self.last}"\r\n'
            sent = f"POST /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
            self._ask(Transition[word.upper()], sent, repeats=repeats)
        self._close()

    def _ask(
        self, operation: Transition | None, sent: bytes, *, repeats: bool = False
    ) -> None:
        called = time.monotonic()
        while not self.stopping.is_set():
            try:
                answer = self._exchange(sent)
            except OSError:
                self.broken += 1
                self._close()
                if not repeats:
                    break
                continue
            if self.fresh or b"\r\nConnection: close\r\n" in answer:
                self._close()
            self.write_down(operation, called, answer)
            return
        self.records.append(Record(client=self.number, operation=operation, called=called))


@frozen
class Result:
    """
    The figures of the clients' records.

    @ivar unknown: of the operations, those with an unknown outcome.
    @ivar replayed: steps that had been made when they were repeated.
    """

    kills: int
    operations: int
    looks: int
    unknown: int
    replayed: int


def until_recorded(clients: Sequence[Historian], more: int) -> None:
    """
    Wait until the clients have recorded so many more operations.
    """

    def count() -> int:
        return sum(len(client.records) for client in clients)

    before = count()
    wait_until(lambda: count() >= before + more, f"{more} more operations")


def journal_of(daemon: Daemon) -> Sequence[Transition]:
    """
    Return the transitions that were made, by the daemon's own history.

    @raise AssertionError: the history contradicts itself.
    """
    rows = whole_history(daemon)
    journal = [Transition[rows[n][1].upper()] for n in range(1, len(rows) + 1)]
    assert [0, *(rows[n][0] for n in range(1, len(rows) + 1))] == positions(journal)
    return journal


def histories(path: Path, kills: int, *options: str) -> Result:
    """
    Kill the worker that serves so often, and check the clients' records.

    @param options: the daemon's options.
    @raise AssertionError: no single cursor can have told all this.
    """
    moments = random.Random(kills)  # noqa: S311 nothing secret
    with Daemon(path, "--journal", JOURNAL, *options) as daemon:
        clients = [Historian(n, daemon.port, fresh=n % 4 == 0) for n in range(CLIENTS)]
        with running(clients):
            for number in range(kills):
                until(daemon, "serves", number + 1)
                until(daemon, "stands by", number + 1)
                until_recorded(clients, MIN_OPERATIONS)
                time.sleep(moments.uniform(*LOAD))
                _, pid = serving(daemon)
                os.kill(pid, signal.SIGKILL)
            until(daemon, "serves", kills + 1)
        journal = journal_of(daemon)
    assert [surprise for client in clients for surprise in client.surprises] == []
    records = [record for client in clients for record in client.records]
    found_faults = faults(records, journal)
    assert not found_faults, "\n".join([f"{len(found_faults)} faults", *found_faults[:20]])
    result = Result(
        kills,
        len(records),
        sum(record.operation is None for record in records),
        sum(record.seen is None for record in records),
        sum(client.replayed for client in clients),
    )
    record(
        Evidence(
            name="histories",
            promise="All clients see one cursor: a request sees every step that was"
            " acknowledged before it began, across every crash.",
            size=result.operations,
            unit="operations",
            result=f"{CLIENTS} concurrent clients, {kills} SIGKILLs of the active"
            f" worker, {result.looks:,} reads, {result.unknown:,} outcomes unknown:"
            " the record is linearizable",
            command="make histories",
        )
    )
    return result


def main() -> None:
    """
    Run the long form.
    """
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as path:
        print(histories(Path(path), kills))


if __name__ == "__main__":
    main()
