"""
Tests of the listener and of brief connections, over real sockets, turn by turn.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import uvloop
from twisted.logger import LogLevel, capturedLogs

from pexservice.server import listener as accepting
from pexservice.server.connection import Connection
from pexservice.server.limits import KEEP_ALIVE_TIMEOUT_SECONDS
from pexservice.server.listener import Listener, OneRequestTransport
from pexservice.server.recognition import Recognizer
from pexservice.server.response_writer import ResponseWriter
from tests.support.daemon import TIMEOUT_SECONDS
from tests.support.wire import Server

CURRENT = b"GET /current HTTP/1.0\r\nHost: h\r\n\r\n"
NEXT = b"POST /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
KEPT = b"GET /current HTTP/1.1\r\nHost: h\r\n\r\n"


class Listening(socket.socket):
    """
    A listening socket that can refuse to accept.
    """

    error: OSError | None = None
    times = 1

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Accept a connection, or raise the error that the test has set.
        """
        if self.error is None or self.times == 0:
            return super().accept()
        self.times -= 1
        raise self.error


def make_port() -> Any:
    """
    Return the port of a reactor that does not run.
    """
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.settimeout(0)
    return SimpleNamespace(
        stopReading=lambda: None, fileno=opened.fileno, stopListening=opened.close
    )


class Machine:
    """
    A worker's server on a real loop and a real listening socket.

    @ivar passed: how many connections were handed over to the loop's own transports.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self.loop, self.server = loop, server
        self.passed = 0
        self._clients: list[socket.socket] = []
        self.port = Listener(make_port(), loop, server.shared)
        self.listening = Listening(fileno=self.port._socket.detach())
        self.port._socket = self.listening
        self.address = self.listening.getsockname()
        real = self.port._make_transport

        def counted(*arguments: Any) -> object:
            self.passed += 1
            return real(*arguments)

        self.port._make_transport = counted  # type: ignore[assignment,method-assign]

    @property
    def newest(self) -> Connection:
        return cast(Connection, [*self.server.connections._open][-1])

    def connect(self, sent: bytes = b"") -> socket.socket:
        """
        Return a client that has sent C{sent}.
        """
        client = socket.create_connection(self.address)
        self._clients.append(client)
        client.sendall(sent)
        client.settimeout(0)
        return client

    def turn(self) -> None:
        """
        Run one turn of the loop, and one of the reactor's clock.
        """
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.server.clock.turn()

    def until(self, holds: Callable[[], object]) -> None:
        """
        Turn until C{holds}.
        """
        end = time.monotonic() + TIMEOUT_SECONDS
        while not holds():
            assert time.monotonic() < end, "it never comes"
            self.turn()

    def turns(self, count: int = 20) -> None:
        """
        Run C{count} turns; nothing here takes as many as the default.
        """
        for _ in range(count):
            self.turn()

    def connect_and_wait(self, sent: bytes = b"") -> socket.socket:
        """
        Return a client that has sent C{sent}, after the service has handled these bytes.
        """
        count = self.server.connections.accepted
        client = self.connect(sent)
        self.until(lambda: self.server.connections.accepted > count)
        self.turns()
        return client

    def respond_with_a_large_value(self) -> None:
        """
        Move the cursor to a value that does not fit into the buffers of a socket.
        """
        self.server.begin_at(1, 1_000_000)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)

    def received(self, client: socket.socket) -> bytes:
        """
        Return all that C{client} gets until the end of its connection, without the date.
        """
        received = bytearray()

        def ended() -> bool:
            try:
                chunk = client.recv(100_000)
            except BlockingIOError:
                return False
            received.extend(chunk)
            return not chunk

        self.until(ended)
        return re.sub(rb"(?m)^Date: [^\r]*\r\n", b"", bytes(received))

    def ask(self, sent: bytes) -> bytes:
        """
        Return what a new client gets for C{sent}.
        """
        return self.received(self.connect(sent))

    def end(self) -> None:
        """
        Close the clients, the connections, the listening socket and the loop.
        """
        for client in self._clients:
            client.close()
        if self.listening.fileno() >= 0:
            self.port.stopListening()
        self.server.connections.abort()
        self.until(lambda: not len(self.server.connections))
        self.turns(3)
        self.loop.close()


@pytest.fixture(params=[asyncio.SelectorEventLoop, uvloop.new_event_loop])
def loop(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoop:
    """
    Return each of the loops that connections may be carried by.
    """
    new_loop: asyncio.AbstractEventLoop = request.param()
    return new_loop


@pytest.fixture
def machine(loop: asyncio.AbstractEventLoop) -> Iterator[Machine]:
    """
    Provide a machine with the cursor at revision 1.

    L{CURRENT} and L{NEXT} are known by their exact bytes.
    """
    new_machine = Machine(loop, Server(hosts=("h",)))
    for request in (*[NEXT] * 3, *[CURRENT] * 3):
        assert b" 200 OK\r\n" in new_machine.ask(request)
    new_machine.server.begin_at(1, 1)
    new_machine.passed = 0
    try:
        yield new_machine
    finally:
        new_machine.end()


def test_single_request_with_a_known_plan_needs_no_transport(machine: Machine) -> None:
    """
    The response is the same as on any other connection.
    """
    shared = machine.server.shared
    planned = shared.counters.with_plan()
    brief = [machine.ask(request) for request in (CURRENT, NEXT, CURRENT)]
    assert machine.passed == 0
    assert shared.counters.with_plan() == planned + 3
    shared.request_cache.stop()
    parsed = machine.ask(CURRENT)
    assert machine.passed == 1
    assert brief[2] == parsed
    assert b"Pex-Revision: 1\r\n" in brief[0]
    assert b"Pex-Revision: 2\r\n" in brief[1]
    assert machine.server.store.cursor.revision == 2
    assert len(machine.server.connections) == 0


def test_late_step_is_read_once_and_answered_when_it_is_durable(machine: Machine) -> None:
    """
    While the step is in progress, the event loop does not call the connection in each turn.
    """
    failed: list[dict[str, Any]] = []
    machine.loop.set_exception_handler(lambda _, context: failed.append(context))
    machine.server.store.held = True
    client = machine.connect_and_wait()
    assert len(machine.server.connections) == 1
    connection = machine.newest
    seen: list[object] = []
    took = connection.perform
    connection.perform = lambda *arguments: seen.append(arguments) or took(*arguments)  # type: ignore[func-returns-value,method-assign]
    client.send(NEXT)
    machine.until(lambda: seen)
    machine.turns()
    with pytest.raises(BlockingIOError):
        client.recv(1)
    machine.server.store.finish()
    assert b"Pex-Revision: 2\r\n" in machine.received(client)
    assert (len(seen), failed, machine.passed) == (1, [], 0)
    assert machine.server.store.cursor.revision == 2


@pytest.mark.parametrize(
    "sent",
    [
        KEPT + CURRENT,
        NEXT.replace(b"close", b"keep-alive") + CURRENT,
        CURRENT[:20],
        b"x" * 10_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_other_input_is_handed_over_to_the_event_loop(
    machine: Machine, sent: bytes
) -> None:
    """
    Such input is a pipeline, half a request, nonsense, or the end of the input.
    """
    client = machine.connect(sent)
    if not sent or sent == CURRENT[:20]:
        client.shutdown(socket.SHUT_WR)
    received = machine.received(client)
    assert machine.passed == bool(sent)
    assert received.count(b"200 OK") == 2 * sent.count(b"\r\n\r\nGET")
    assert received.count(b"400 Bad") + received.count(b"414 ") == sent.count(b"xxxx\r\n")


def test_foreign_host_with_a_known_plan_is_refused_over_loopback(machine: Machine) -> None:
    """
    The plan was made by a connection whose Host is not checked.
    """
    foreign = NEXT.replace(b"Host: h", b"Host: attacker.example")
    for _ in range(3):
        elsewhere = machine.server.connect()
        elsewhere.send(foreign)
        elsewhere.turns()
        elsewhere.lose()
        assert b" 200 OK\r\n" in elsewhere.received
    for _ in range(2):
        assert machine.ask(foreign).startswith(b"HTTP/1.1 421 ")
    assert machine.passed == 0
    assert b"Pex-Revision: 4\r\n" in machine.ask(CURRENT)


@pytest.mark.parametrize("request_", [CURRENT, KEPT])
@pytest.mark.parametrize(
    ("owner", "method"), [(ResponseWriter, "write_state_response"), (Recognizer, "find")]
)
def test_bug_in_one_request_closes_only_its_connection(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    request_: bytes,
) -> None:
    """
    The sweep would not close such a connection.
    """
    with monkeypatch.context() as patched, capturedLogs() as logged:
        patched.setattr(owner, method, lambda *_: 1 // 0)
        assert machine.ask(request_) == b""
    assert [event["log_level"] for event in logged] == [LogLevel.critical]
    machine.until(lambda: not len(machine.server.connections))
    assert b" 200 OK\r\n" in machine.ask(CURRENT)


def test_response_that_does_not_fit_is_handed_over_to_the_event_loop(
    machine: Machine,
) -> None:
    """
    The event loop sends the rest, and closes the connection.
    """
    committer = machine.server.committer
    machine.respond_with_a_large_value()
    client = machine.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    client.send(CURRENT)
    received = machine.received(client)
    assert machine.passed == 1
    head, _, text = received.partition(b"\r\n\r\n")
    assert text == committer.durable.term.text + b"\n"
    assert b"Content-Length: %d" % len(text) in head


def test_a_client_that_takes_nothing_is_cut_off(machine: Machine) -> None:
    """
    A client that takes nothing for a minute is cut off, as on any other connection.
    """
    connections = machine.server.connections
    machine.respond_with_a_large_value()
    machine.connect_and_wait(CURRENT)
    assert len(connections) == 1
    connections.sweep()
    machine.server.clock.turn(61)
    connections.sweep()
    machine.until(lambda: not len(connections))
    assert connections.closed["stalled"] == 1


def test_step_of_a_client_that_left_is_made(machine: Machine) -> None:
    """
    Other clients are not affected.
    """
    machine.server.store.held = True
    client, other = machine.connect(NEXT), machine.connect_and_wait(NEXT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    machine.turns()
    machine.server.store.finish()
    assert b"Pex-Revision: 3\r\n" in machine.received(other)
    machine.until(lambda: not len(machine.server.connections))
    assert machine.server.store.cursor.revision == 3


def test_bytes_behind_the_last_request_are_ignored(machine: Machine) -> None:
    """
    They do not prevent the response.
    """
    machine.server.store.held = True
    client = machine.connect_and_wait(NEXT)
    client.send(b"\r\n" + NEXT)
    machine.server.store.finish()
    assert machine.received(client).count(b"200 OK") == 1
    assert machine.server.store.cursor.revision == 2


def test_idle_connection_is_closed_by_the_sweep_and_by_a_stop(machine: Machine) -> None:
    """
    Its transport may be in any state.
    """
    connections = machine.server.connections
    client = machine.connect_and_wait()
    transport = cast(OneRequestTransport, machine.newest.transport)
    watched = transport._socket.fileno()
    machine.server.clock.turn(KEEP_ALIVE_TIMEOUT_SECONDS + 1)
    connections.sweep()
    assert len(connections) == 0
    # The loop does not watch that file descriptor any more, which another may have next.
    assert not machine.loop.remove_reader(watched)
    assert machine.received(client) == b""
    client = machine.connect()
    machine.until(lambda: len(connections))
    # The connection may not have been looked at yet.
    connections.close_waiting()
    assert len(connections) == 0
    machine.turns()
    assert machine.received(client) == b""
    assert machine.passed == 0


@pytest.mark.parametrize("request_", [KEPT, CURRENT])
def test_connection_aborted_during_its_hand_over_ends(
    machine: Machine, request_: bytes
) -> None:
    """
    The end does not wait for a client that has not read its response.
    """
    connections = machine.server.connections
    machine.respond_with_a_large_value()
    client = machine.connect(request_)
    machine.until(lambda: machine.passed)
    assert len(connections) == 1
    connections.abort()
    machine.until(lambda: not len(connections))
    assert (machine.received(client) == b"") == (request_ == KEPT)


@pytest.mark.parametrize("error", [OSError(errno.ENOTCONN, "gone"), ValueError("a bug")])
def test_connection_that_cannot_be_handed_over_is_closed(
    machine: Machine, error: Exception
) -> None:
    """
    A bug is logged.
    """
    machine.port._loop = Mock(wraps=machine.loop)
    machine.port._loop.connect_accepted_socket.side_effect = error
    with capturedLogs() as events:
        client = machine.connect(KEPT)
        machine.until(lambda: machine.passed)
        machine.until(lambda: not len(machine.server.connections))
    assert [event["log_level"] for event in events] == [LogLevel.critical] * (
        isinstance(error, ValueError)
    )
    assert machine.received(client) == b""


def test_connection_beyond_the_limit_gets_503_unless_one_is_idle(machine: Machine) -> None:
    machine.server.connections.limit = 1
    machine.server.store.held = True
    first = machine.connect_and_wait(NEXT)
    assert machine.ask(CURRENT).startswith(b"HTTP/1.1 503 ")
    # The refused client may be sent to, and is listened to for a while.
    assert machine.passed == 1
    machine.server.store.finish()
    assert b"200 OK" in machine.received(first)
    resting = machine.connect_and_wait()
    assert b"200 OK" in machine.ask(CURRENT)
    assert machine.received(resting) == b""


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
)
def test_listener_retries_while_descriptors_or_memory_are_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """
    When they are available again, new clients are served.  The log gives the reason once.
    """
    monkeypatch.setattr(accepting, "RETRY_DELAY_SECONDS", 0.001)
    machine.listening.error = OSError(number, "none left")
    machine.listening.times = 3
    with capturedLogs() as events:
        assert b"200 OK" in machine.ask(CURRENT)
    (event,) = [event for event in events if event["log_level"] is LogLevel.error]
    assert "none left" in str(event["error"])


@pytest.mark.parametrize(
    "number",
    [errno.ECONNABORTED, errno.EPERM, errno.EACCES, errno.EPROTO, errno.ENETDOWN],
)
def test_error_of_one_connection_at_accept_does_not_affect_the_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """
    No connection is closed to free its descriptor, and nothing is logged.
    """
    displaced: list[None] = []
    connections = machine.server.connections
    monkeypatch.setattr(connections, "displace", lambda: displaced.append(None))
    machine.listening.error = OSError(number, "no")
    with capturedLogs() as events:
        assert b"200 OK" in machine.ask(CURRENT)
    assert (events, displaced) == ([], [])


def test_stopped_listener_accepts_no_client(machine: Machine) -> None:
    """
    It may stop during its retry delay.  Connected clients get their responses.
    """
    machine.server.store.held = True
    client = machine.connect_and_wait(NEXT)
    machine.listening.error = OSError(errno.EMFILE, "none left")
    late = machine.connect(CURRENT)
    machine.until(lambda: not machine.listening.times)
    retry = machine.port._retry
    assert retry is not None
    machine.port.stopListening()
    assert retry.cancelled()
    machine.turns()
    machine.server.store.finish()
    assert b"200 OK" in machine.received(client)
    with pytest.raises(ConnectionResetError):
        machine.received(late)
