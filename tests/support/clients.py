"""
Clients that record every response, and a check of these records against the history.
"""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import Factory, define, field, frozen

from pexservice.core.cursor import Transition, position_after
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, wait_until


@frozen
class AcknowledgedStep:
    """
    A step whose response arrived.

    @ivar began: when the client began the request, on the monotonic clock.
    @ivar ended: when the response had arrived, on the monotonic clock.
    """

    revision: int
    position: int
    word: str
    began: float
    ended: float


#: A reload may close the connection of a client that sends nothing for longer than this,
#: because a replaced worker drains for 0.3 seconds.  On a busy machine, a thread may wait
#: that long before it sends a request or reads a response.
MAX_IDLE_SECONDS = 0.1


@define(eq=False)
class Stoppable(threading.Thread):
    """
    A thread that runs until C{stopping} is set.
    """

    stopping: threading.Event = field(init=False, factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        super().__init__(daemon=True)


@contextmanager
def running(threads: Sequence[Stoppable]) -> Iterator[None]:
    """
    Run the threads until the end of the block.
    """
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)


@define(eq=False)
class Client(Stoppable):
    """
    A client that makes steps as fast as it gets responses, and waits for a service.

    @ivar fresh: open a new connection for each request.
    @ivar pause_seconds: the time between a response and the next request.
    @ivar patient: repeat a step with a key also after a response with status 503.
    @ivar acknowledged: the steps whose responses arrived.
    @ivar refused: the number of refused connections.
    @ivar broken: the number of connections that ended without a response, except those on
        which the client had sent nothing for at least L{MAX_IDLE_SECONDS}.
    @ivar unavailable: the number of responses with status 503 to a patient client.
    @ivar replayed: the number of steps that had been made before the client repeated them.
    @ivar surprises: the responses with another status than 200.
    """

    number: int
    port: int
    fresh: bool = False
    pause_seconds: float = 0.0
    patient: bool = False
    acknowledged: list[AcknowledgedStep] = Factory(list)
    refused: int = 0
    broken: int = 0
    unavailable: int = 0
    replayed: int = 0
    surprises: list[str] = Factory(list)
    _connection: socket.socket | None = None
    _last_sent: float = 0.0
    _idle_seconds: float = 0.0

    def run(self) -> None:
        choose = random.Random(self.number)  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set():
            count += 1
            word = choose.choices(["next", "previous", "reset"], [90, 9, 1])[0]
            began = time.monotonic()
            # Every other client uses keys, and repeats a step that got no response.
            response = self._ask(
                word, f"{self.number}-{count}" if self.number % 2 else None
            )
            if response:
                self._note(word, began, response)
            if self.pause_seconds:
                time.sleep(self.pause_seconds)
        self._close()

    def _ask(self, word: str, key: str | None, header: str = "") -> bytes:
        """
        Send a request until there is a response; without a key, at most once.

        @return: the response, which is empty if there was none.
        """
        method = "GET" if word == "current" else "POST"
        if key is not None:
            header += f"Idempotency-Key: {key}\r\n"
        sent = f"{method} /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
        while not self.stopping.is_set():
            try:
                answer = self._exchange(sent)
            except ConnectionRefusedError:
                self.refused += 1
                self._switch_node()
            except OSError:
                if self._idle_seconds < MAX_IDLE_SECONDS:
                    self.broken += 1
                self._close()
                if key is None:
                    return b""
            else:
                if self.fresh or b"\r\nConnection: close\r\n" in answer:
                    self._close()
                is_unavailable = self.patient and answer.startswith(b"HTTP/1.1 503 ")
                self.unavailable += is_unavailable
                if key is None or not is_unavailable:
                    return answer
                self._switch_node()
        return b""

    def _switch_node(self) -> None:
        """
        Wait before the next attempt, which may use another node.
        """
        time.sleep(0.01)

    def _exchange(self, sent: bytes) -> bytes:
        """
        Send a request, and return its response.

        This method does as little work as possible, because the clients and the service
        share the processors.
        """
        if self._connection is None:
            self._connection = socket.create_connection(
                ("127.0.0.1", self.port), TIMEOUT_SECONDS
            )
            self._last_sent = time.monotonic()
        try:
            self._connection.sendall(sent)
        finally:
            now = time.monotonic()
            self._idle_seconds = now - self._last_sent
            self._last_sent = now
        answer = b""
        while True:
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionResetError
            answer += received
            head, end, body = answer.partition(b"\r\n\r\n")
            if end and len(body) == _number(rb"Content-Length", head):
                return answer

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, word: str, began: float, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.surprises.append(answer.decode())
            return
        revision, position = (
            _number(name, answer) for name in (rb"Pex-Revision", rb"Pex-Position")
        )
        self.acknowledged.append(
            AcknowledgedStep(revision, position, word, began, time.monotonic())
        )
        self.replayed += b"\r\nIdempotency-Replayed: true\r\n" in answer


def _number(name: bytes, head: bytes) -> int:
    """
    Return the number in the header C{name}.
    """
    match = re.search(rb"\r\n%b: (\d+)" % name, head)
    assert match is not None, head
    return int(match[1])


def highest(clients: Sequence[Client]) -> int:
    """
    Return the highest revision in the clients' records.
    """
    return max(
        (client.acknowledged[-1].revision for client in clients if client.acknowledged),
        default=0,
    )


def whole_history(daemon: Daemon, known: int = 0) -> dict[int, tuple[int, str]]:
    """
    Read the history page by page, down to the revision C{known}.

    @return: position and transition by revision.
    """
    rows: dict[int, tuple[int, str]] = {}
    path = "/history?limit=1000"
    while path:
        page = json.loads(daemon.request(path, headers={"Accept": "application/json"})[1])
        for row in page["transitions"]:
            if row["revision"] <= known:
                return rows
            assert row["revision"] not in rows
            rows[row["revision"]] = (row["position"], row["transition"])
        path = page["next"]
    return rows


def replayed(
    rows: Mapping[int, tuple[int, str]], revision: int = 0, position: int = 0
) -> int:
    """
    Apply the transitions in C{rows}, and check the position after each one.

    @return: the last position.
    """
    for number in range(revision + 1, revision + len(rows) + 1):
        after, word = rows[number]
        position = position_after(position, Transition[word.upper()])
        assert position == after
    return position


def surprises(clients: Sequence[Client]) -> list[str]:
    """
    Return the responses with another status than 200.
    """
    return [surprise for client in clients for surprise in client.surprises]


def check(
    daemon: Daemon,
    clients: Sequence[Client],
    *,
    forgets: bool = False,
    expected_problem: str | None = None,
) -> tuple[int, int]:
    """
    Compare the clients' records with the history, and the history with the cursor.

    @param forgets: the history may have lost its oldest steps.
    @param expected_problem: a text in each of the clients' L{surprises}; otherwise there
        must be none.
    @return: the number of acknowledged steps, and the number of all steps.
    """
    unexpected = [
        surprise
        for surprise in surprises(clients)
        if expected_problem is None or expected_problem not in surprise
    ]
    assert unexpected == []
    rows = whole_history(daemon)
    steps = {
        step.revision: (step.position, step.word)
        for client in clients
        for step in client.acknowledged
    }
    # No two clients got the same step.
    assert len(steps) == sum(len(client.acknowledged) for client in clients)
    response, _ = daemon.request("/current")
    newest = int(response.headers["Pex-Revision"])
    oldest = min(rows, default=1)
    assert sorted(rows) == [*range(oldest, newest + 1)]
    assert forgets or oldest == 1
    for revision, step in steps.items():
        assert revision < oldest or rows.get(revision) == step, (revision, step)
    # Steps that are no longer in the history and had no response leave gaps.
    rows = {0: (0, "")} | steps | rows
    for revision, (position, word) in rows.items():
        if revision - 1 in rows:
            before, _ = rows[revision - 1]
            assert position_after(before, Transition[word.upper()]) == position
    assert int(response.headers["Pex-Position"]) == rows[newest][0]
    return len(steps), newest


@contextmanager
def load(
    daemon: Daemon, number: int = 8, *, keys: bool = True, pause_seconds: float = 0.0
) -> Iterator[list[Client]]:
    """
    Run clients that make steps, by default without pauses, until the end of the block.
    """
    # Clients with an odd number use keys.
    numbers = range(0, number if keys else 2 * number, 1 if keys else 2)
    clients = [Client(n, daemon.port, n % 4 < 2, pause_seconds) for n in numbers]
    with running(clients):
        yield clients


def until_acknowledged(clients: Sequence[Client], more: int = 1000) -> None:
    """
    Wait until the clients have got C{more} responses, and so the service continues.
    """

    def count() -> int:
        return sum(len(client.acknowledged) for client in clients)

    before = count()
    wait_until(lambda: count() >= before + more, f"{more} more steps")


def kept(daemon: Daemon, clients: Sequence[Client], **options: Any) -> int:
    """
    Check that no connection was refused, and that no acknowledged step is lost.

    @param options: arguments of L{check}.
    @return: the number of acknowledged steps.
    """
    acknowledged, _ = check(daemon, clients, **options)
    assert [client.refused for client in clients] == [0] * len(clients)
    return acknowledged
