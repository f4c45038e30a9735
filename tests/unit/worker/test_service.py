"""
One worker as a service: how it starts, fails to start, and stops.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogLevel, capturedLogs

from pexservice.commit.counters import Counts
from pexservice.core.cursor import Cursor
from pexservice.process import scoreboard
from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import (
    ALIVE,
    NOT_READY,
    READY,
    STANDBY,
    STOPPING,
    Notifier,
)
from pexservice.process.supervisor_report import SupervisorReport, write_report
from pexservice.server.connection import Connection
from pexservice.server.server import Server
from pexservice.settings.options import WorkerSettings
from pexservice.stores.errors import (
    OutcomeUnknown,
    StoreDamaged,
    StoreError,
    StoreMisconfigured,
)
from pexservice.stores.factory_interface import StoreOptions
from pexservice.worker import assembly, listeners, service
from pexservice.worker.assembly import WorkerReactor
from pexservice.worker.messages import HEARTBEATS_PER_WATCHDOG
from pexservice.worker.service import Worker
from tests.support.fakes import MemoryStore, now
from tests.support.processes import ProcessReactor
from tests.support.wire import Transport

LISTEN = ("tcp:8081:interface=127.0.0.1",)

WATCHDOG = 5.0

STEP = b"POST /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


class ListeningReactor(ProcessReactor):
    """
    A reactor that listens in memory.

    @ivar refusal: the exception that it raises instead of listening.
    """

    refusal: Exception | None = None

    def listenTCP(self, *arguments: Any, **more: Any) -> Any:
        """
        Listen, or raise C{refusal}.
        """
        if self.refusal is not None:
            raise self.refusal
        return super().listenTCP(*arguments, **more)

    def addSystemEventTrigger(self, *arguments: Any, **more: Any) -> Any:
        """
        Ignore the trigger: the reactor never stops.
        """


class Bench:
    """
    A worker with its surroundings.

    @ivar messages: the lines that it sent to the process that started it.
    @ivar statuses: the exit statuses of the process, when it ends.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        store: MemoryStore | None = None,
        refusal: Exception | None = None,
        report: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """
        @param report: what a supervisor reports; C{None} if there is no supervisor.
        """
        self.messages: list[str] = []
        self.statuses: list[Status] = []
        self.reactor = ListeningReactor()
        self.reactor.refusal = refusal
        self.board = scoreboard.create()
        if report is not None:
            self.show(**report)
            settings |= {"supervisor": 3, "scoreboard": self.board}
        self.store = store or MemoryStore()
        monkeypatch.setattr(
            atexit, "register", lambda _, *status: self.statuses.extend(status)
        )
        notifier = Notifier(
            lambda message: self.messages.extend(message.decode().splitlines()), WATCHDOG
        )
        monkeypatch.setattr(service, "connect_notifier", lambda *_: notifier)
        monkeypatch.setattr(service, "handle_signals_as_supervised", lambda: None)
        monkeypatch.setattr(assembly, "event_loop", lambda _: self)
        monkeypatch.setattr(listeners, "Listener", self._listen)
        monkeypatch.setattr(assembly, "store_factory", lambda _: self)
        self._server: Server | None = None
        defaults: dict[str, Any] = {"listen": LISTEN, "foreground": False}
        self.worker = Worker(
            WorkerSettings(**defaults | settings),
            cast(WorkerReactor, self.reactor),
        )

    @property
    def reason(self) -> str | None:
        """
        Return why the process ends.
        """
        return self.worker._exit.reason

    def show(self, *, retry_opening: bool = True, **values: Any) -> None:
        """
        Show a report, of a service that a worker was active in.
        """
        write_report(self.board, SupervisorReport(retry_opening=retry_opening, **values))

    def make(self, options: StoreOptions) -> MemoryStore:
        """
        Make the worker's store, as its factory.
        """
        self.options = options
        return self.store

    def call_soon(self, call: Callable[[], None]) -> object:
        """
        Make a call in the next turn, as an event loop does.
        """
        return self.reactor.callLater(0, call)

    name = "the store"

    def lock_holder(self) -> str:
        return "another process"

    def _listen(self, port: IListeningPort, _: object, server: Server, *__: object) -> Any:
        """
        Take the place of the listener, which needs a socket.
        """
        self._server = server
        return port

    def connect(self) -> tuple[Connection, Transport]:
        """
        Open a connection to the worker.

        @return: the connection, and the transport that gets its responses.
        """
        assert self._server is not None
        peer = self._server.checker.clients.peer("127.0.0.1", "")
        connection, transport = Connection(self._server, peer), Transport()
        self._server.connections.admit(connection)
        connection.connection_made(transport)
        return connection, transport

    def ask_for_a_step(self) -> Transport:
        """
        Send a request on its own connection.

        @return: the transport that gets the response when it is there.
        """
        connection, transport = self.connect()
        connection.data_received(STEP)
        return transport

    def stop(self) -> None:
        stopped: Any = self.worker.stopService()
        self.reactor.turns(4.0)
        now(cast(Deferred[None], stopped))


#: Starts a worker; the arguments are those of L{Bench}.
Start = Callable[..., Bench]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """
    Provide a function that starts a worker, which is stopped in the end.
    """
    benches: list[Bench] = []

    def start(**given: Any) -> Bench:
        bench = Bench(monkeypatch, **given)
        benches.append(bench)
        bench.worker.startService()
        return bench

    yield start
    for bench in benches:
        if bench.worker.running:
            bench.stop()
        os.close(bench.board)


def test_active_worker_notifies_readiness_with_each_heartbeat_until_it_stops(
    start: Start,
) -> None:
    """
    A worker sends several heartbeats within the timeout of the watchdog.
    """
    bench = start()
    assert len(bench.reactor.tcpServers) == 1
    ready = [READY, "STATUS=serving since revision 0, position 0"]
    assert bench.messages == [ALIVE, *ready]
    bench.reactor.turns(WATCHDOG)
    assert bench.messages[3:] == [ALIVE, *ready] * HEARTBEATS_PER_WATCHDOG
    del bench.messages[:]
    bench.stop()
    assert bench.messages[0] == STOPPING
    assert READY not in bench.messages
    assert bench.store.closed


def test_drain_during_a_blocking_commit_ends_with_a_response(
    start: Start,
) -> None:
    """
    A connection in use gets its response, even if the process read no request for a while.
    """
    bench = start()
    connection, transport = bench.connect()
    connection.data_received(STEP)
    bench.reactor.turns(0.25)
    transport.clear()
    bench.worker.stopService()
    bench.reactor.turn(1.0)
    connection.data_received(STEP)
    bench.reactor.turns(4.0)
    answer = transport.value()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer


class SlowStore(MemoryStore):
    """
    A store that fails to open while it has an C{error}, and else opens when it is C{ready}.

    Meanwhile the worker is a standby, if it has a supervisor.
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.attempts = 0
        self.ready: Deferred[None] = Deferred()

    def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        self.attempts += 1
        if self.error is not None:
            return fail(self.error)
        if on_standby is not None:
            on_standby()
        return self.ready.addCallback(lambda _: super(SlowStore, self).open())


def test_worker_whose_verification_hangs_sends_no_heartbeat(
    start: Start,
) -> None:
    store = SlowStore()
    bench = start(store=store)
    bench.options.progress(1)
    del bench.messages[:]
    bench.reactor.turns(2 * WATCHDOG)
    assert bench.messages == []
    store.ready.callback(None)
    bench.reactor.turns(WATCHDOG)
    assert ALIVE in bench.messages


def test_worker_sends_no_heartbeat_while_a_commit_hangs(start: Start) -> None:
    bench = start()
    del bench.messages[:]
    bench.store.held = True
    bench.ask_for_a_step()
    bench.reactor.turns(10.0)
    assert bench.messages == []
    bench.store.finish()
    assert ALIVE in bench.messages


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("the store is in use"), Status.CANNOT_START),
        (StoreDamaged("the store is damaged"), Status.DAMAGED),
    ],
)
def test_worker_whose_store_is_unusable_ends_with_the_reason(
    start: Start, error: Exception, status: Status, *, supervised: bool
) -> None:
    """
    The operator who starts the service gets the reason.
    """
    report = {"retry_opening": status is Status.DAMAGED} if supervised else None
    bench = start(store=SlowStore(error), report=report)
    assert (bench.statuses, bench.reason) == ([status], str(error))
    assert bench.messages[-1] == f"STATUS={error}"
    assert bench.reactor.tcpServers == []


@pytest.mark.parametrize("kind", [StoreError, StoreMisconfigured])
def test_later_worker_responds_with_the_reason_until_its_store_opens(
    start: Start, kind: type[StoreError]
) -> None:
    store = SlowStore(kind("it holds something else"))
    with capturedLogs() as events:
        bench = start(store=store, report={})
        assert bench.messages[-2:] == ["STATUS=it holds something else", NOT_READY]
        assert bench.reactor.tcpServers == []
        bench.reactor.turns(30.0)
    assert len(bench.reactor.tcpServers) == 1
    answer = bench.ask_for_a_step()
    bench.reactor.turns(0.1)
    assert answer.value().startswith(b"HTTP/1.1 503 ")
    assert b"it holds something else" in answer.value()
    errors = [event for event in events if event["log_level"] is LogLevel.error]
    assert (len(errors), bench.statuses) == (1, [])
    assert 5 < store.attempts < 12
    store.error = None
    store.ready.callback(None)
    bench.reactor.turns(6.0)
    assert READY in bench.messages
    assert len(bench.reactor.tcpServers) == 1
    assert bench.store.cursor.revision == 0
    answer = bench.ask_for_a_step()
    bench.reactor.turns(0.1)
    assert answer.value().startswith(b"HTTP/1.1 200 ")


def test_worker_with_a_problem_listens_only_while_no_worker_is_active(start: Start) -> None:
    """
    A worker that the supervisor shows as a standby sends no client a 503.
    """
    store = SlowStore(StoreError("gone"))
    bench = start(store=store, report={"active_worker": "worker-1"})
    bench.reactor.turns(10.0)
    assert bench.reactor.tcpServers == []
    bench.show(active_worker="", possible_lock_holders=1)
    bench.reactor.turns(1.0)
    store.error = None
    bench.reactor.turns(6.0)
    assert bench.worker._parts is not None
    listeners = bench.worker._parts.listeners
    assert (listeners.are_open, STANDBY in bench.messages) == (True, False)
    bench.show(active_worker="worker-2")
    bench.reactor.turns(1.0)
    assert (listeners.are_open, STANDBY in bench.messages) == (False, True)


def test_standby_names_another_program_that_has_the_lock(start: Start) -> None:
    """
    No worker of the service can have the lock, so another program has it.
    """
    bench = start(store=SlowStore(), report={"possible_lock_holders": 1})
    bench.reactor.turns(10.0)
    assert NOT_READY not in bench.messages
    bench.show(active_worker="", possible_lock_holders=0)
    bench.reactor.turns(1.0)
    assert any("is in use by another process" in line for line in bench.messages)
    assert NOT_READY in bench.messages
    assert len(bench.reactor.tcpServers) == 1


def test_stopped_worker_does_not_retry_to_open_its_store(start: Start) -> None:
    store = SlowStore(StoreError("gone"))
    bench = start(store=store, report={})
    bench.stop()
    attempts = store.attempts
    bench.reactor.turns(20.0)
    assert (store.attempts, bench.statuses) == (attempts, [])


@pytest.mark.parametrize(
    ("error", "reason", "levels"),
    [
        (
            RuntimeError("a bug"),
            "cannot start: RuntimeError: a bug",
            [LogLevel.critical] * 2,
        ),
        (
            OSError(24, "Too many open files"),
            "cannot listen on tcp:8081:interface=127.0.0.1: Too many open files",
            [LogLevel.critical],
        ),
    ],
)
def test_exception_while_the_store_is_open_ends_the_worker(
    start: Start, error: Exception, reason: str, levels: list[LogLevel]
) -> None:
    """
    The kernel gives the lock to another process.  Only a bug is logged with a traceback.
    """
    with capturedLogs() as events:
        bench = start(refusal=error)
    assert (bench.statuses, bench.reason) == ([Status.CANNOT_START], reason)
    logged_levels = [
        event["log_level"] for event in events if event["log_level"] is not LogLevel.info
    ]
    assert logged_levels == levels
    bench.stop()
    assert bench.store.closed


def test_failed_store_ends_the_worker(start: Start) -> None:
    """
    The next worker reads the store from the disk.
    """
    bench = start()
    bench.store.failure = OutcomeUnknown("mdb_txn_commit: Input/output error")
    answer = bench.ask_for_a_step()
    bench.reactor.turns(1.0)
    assert answer.value().startswith(b"HTTP/1.1 503 ")
    assert bench.statuses == [Status.STORE_FAILED]
    assert bench.messages[-1] == (
        "STATUS=the store failed (mdb_txn_commit: Input/output error), so this process ends"
    )


def test_bug_in_the_committer_is_not_reported_as_a_failed_store(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start()
    monkeypatch.setattr(Counts, "count_commit", lambda *_: 1 / 0)
    bench.ask_for_a_step()
    with capturedLogs() as events:
        bench.reactor.turns(1.0)
    assert bench.statuses == [Status.BUG]
    assert bench.messages[-1] == "STATUS=a bug: ZeroDivisionError('division by zero')"
    (event,) = (event for event in events if "log_failure" in event)
    assert event["log_failure"].type is ZeroDivisionError
    assert event["log_format"] == "the committer failed"
