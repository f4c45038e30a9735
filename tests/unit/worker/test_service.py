"""
One worker as a service: how it starts, fails to start, and stops.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogLevel, capturedLogs

from pexservice.commit.counters import Counts
from pexservice.core.cursor import Cursor
from pexservice.process import scoreboard
from pexservice.process.exit_status import ProcessExit, Status
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
from pexservice.stores.registry import store_factory
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
        watchdog: float | None = WATCHDOG,
        **settings: Any,
    ) -> None:
        self.messages: list[str] = []
        self.statuses: list[Status] = []
        self.reactor = ListeningReactor()
        self.store = store or MemoryStore()
        self.exit = ProcessExit(
            cast(Any, self.reactor),
            terminal=False,
            at_exit=lambda _, *status: self.statuses.extend(status),
        )
        notifier = Notifier(
            lambda message: self.messages.extend(message.decode().splitlines()), watchdog
        )
        monkeypatch.setattr(service, "connect_notifier", lambda *_: notifier)
        monkeypatch.setattr(service, "handle_signals_as_supervised", lambda: None)
        monkeypatch.setattr(assembly, "event_loop", lambda _: self)
        monkeypatch.setattr(listeners, "Listener", self._listen)
        monkeypatch.setattr(assembly, "store_factory", lambda _: self)
        self._server: Server | None = None
        self.worker = Worker(
            WorkerSettings(**{"listen": LISTEN} | settings),
            cast(WorkerReactor, self.reactor),
            self.exit,
        )

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
        """
        Stop the worker.
        """
        stopped: Any = self.worker.stopService()
        self.reactor.turns(4.0)
        now(cast(Deferred[None], stopped))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """
    Provide a factory of benches, whose services are stopped in the end.
    """
    benches: list[Bench] = []

    def make(**given: Any) -> Bench:
        benches.append(Bench(monkeypatch, **given))
        return benches[-1]

    yield make
    for bench in benches:
        if bench.worker.running:
            bench.stop()


def test_active_worker_notifies_readiness(make: Callable[..., Bench]) -> None:
    """
    Each heartbeat repeats READY.
    """
    bench = make()
    bench.worker.startService()
    assert len(bench.reactor.tcpServers) == 1
    ready = [READY, "STATUS=serving since revision 0, position 0"]
    assert bench.messages == [ALIVE, *ready]
    bench.reactor.turns(1.25)
    assert bench.messages[3:] == [ALIVE, *ready]


def test_stopping_worker_sends_stopping_and_closes_the_store(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.worker.startService()
    bench.stop()
    assert STOPPING in bench.messages
    assert bench.store.closed


def test_drain_during_a_blocking_commit_ends_with_a_response(
    make: Callable[..., Bench],
) -> None:
    """
    A connection in use gets its response, even if the process read no request for a while.
    """
    bench = make()
    bench.worker.startService()
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


def test_each_heartbeat_repeats_the_state(make: Callable[..., Bench]) -> None:
    """
    A worker sends several heartbeats within the timeout of the watchdog.
    """
    bench = make()
    bench.worker.startService()
    del bench.messages[:]
    bench.reactor.turns(WATCHDOG)
    state = "STATUS=serving since revision 0, position 0"
    assert bench.messages == [ALIVE, READY, state] * HEARTBEATS_PER_WATCHDOG


def test_worker_sends_no_heartbeat_without_a_watchdog(make: Callable[..., Bench]) -> None:
    bench = make(watchdog=None)
    bench.worker.startService()
    bench.reactor.turns(2 * WATCHDOG)
    assert ALIVE not in bench.messages


class Verified(MemoryStore):
    """
    A store that is verified until C{verification} fires.
    """

    def __init__(self) -> None:
        super().__init__()
        self.verification: Deferred[None] = Deferred()

    def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Open the store when its verification has ended.
        """
        return self.verification.addCallback(lambda _: super(Verified, self).open())


def test_worker_whose_verification_hangs_sends_no_heartbeat(
    make: Callable[..., Bench],
) -> None:
    store = Verified()
    bench = make(store=store)
    bench.worker.startService()
    bench.options.progress(1)
    del bench.messages[:]
    bench.reactor.turns(2 * WATCHDOG)
    assert bench.messages == []
    store.verification.callback(None)
    bench.reactor.turns(WATCHDOG)
    assert ALIVE in bench.messages


def test_worker_sends_no_heartbeat_while_a_commit_hangs(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.worker.startService()
    del bench.messages[:]
    bench.store.held = True
    bench.ask_for_a_step()
    bench.reactor.turns(10.0)
    assert bench.messages == []
    bench.store.finish()
    assert ALIVE in bench.messages


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("the store is in use"), Status.CANNOT_START),
        (StoreDamaged("the store is damaged"), Status.DAMAGED),
    ],
)
def test_worker_whose_store_is_unusable_ends_with_the_reason(
    make: Callable[..., Bench], error: Exception, status: Status
) -> None:
    bench = make(store=Unusable(error))
    bench.worker.startService()
    assert (bench.statuses, bench.exit.reason) == ([status], str(error))
    assert bench.messages[-1] == f"STATUS={error}"
    assert bench.reactor.tcpServers == []


class Unusable(MemoryStore):
    """
    A store that cannot be opened.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.attempts = 0

    def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
        """
        Fail with the error, while there is one.
        """
        self.attempts += 1
        return super().open() if self.error is None else fail(self.error)


def test_first_worker_whose_store_cannot_be_opened_ends(
    make: Callable[..., Bench], board: int
) -> None:
    """
    The operator who starts the service gets the reason.
    """
    error = StoreError("it holds something else")
    show(board, retry_opening=False)
    bench = make(store=Unusable(error), supervisor=3, scoreboard=board)
    bench.worker.startService()
    assert bench.statuses == [Status.CANNOT_START]
    assert bench.reactor.tcpServers == []


@pytest.mark.parametrize("kind", [StoreError, StoreMisconfigured])
def test_later_worker_responds_with_the_reason_until_its_store_opens(
    make: Callable[..., Bench], board: int, kind: type[StoreError]
) -> None:
    store = Unusable(kind("it holds something else"))
    show(board)
    bench = make(store=store, supervisor=3, scoreboard=board)
    with capturedLogs() as events:
        bench.worker.startService()
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
    bench.reactor.turns(6.0)
    assert READY in bench.messages
    assert len(bench.reactor.tcpServers) == 1
    assert bench.store.cursor.revision == 0
    answer = bench.ask_for_a_step()
    bench.reactor.turns(0.1)
    assert answer.value().startswith(b"HTTP/1.1 200 ")


def test_worker_with_a_problem_does_not_listen_next_to_an_active_worker(
    make: Callable[..., Bench], board: int
) -> None:
    """
    The worker listens while no worker is active, and stops when one is.
    """
    show(board, active_worker="worker-1")
    bench = make(store=Unusable(StoreError("gone")), supervisor=3, scoreboard=board)
    bench.worker.startService()
    bench.reactor.turns(10.0)
    assert bench.reactor.tcpServers == []
    show(board, active_worker="")
    bench.reactor.turns(1.0)
    assert len(bench.reactor.tcpServers) == 1
    show(board, active_worker="worker-1")
    bench.reactor.turns(1.0)
    assert bench.worker._parts is not None
    assert not bench.worker._parts.listeners.are_open


def test_worker_that_refuses_stands_by_when_it_no_longer_listens(
    make: Callable[..., Bench], board: int
) -> None:
    """
    A worker that the supervisor shows as a standby sends no client a 503.
    """

    class Returning(Unusable):
        def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
            if self.error is not None:
                return super().open()
            assert on_standby is not None
            on_standby()
            return Deferred()

    show(board, active_worker="", possible_lock_holders=1)
    store = Returning(StoreError("gone"))
    bench = make(store=store, supervisor=3, scoreboard=board)
    bench.worker.startService()
    bench.reactor.turns(2.0)
    store.error = None
    bench.reactor.turns(2.0)
    assert bench.worker._parts is not None
    listeners = bench.worker._parts.listeners
    assert (listeners.are_open, STANDBY in bench.messages) == (True, False)
    show(board, active_worker="worker-2")
    bench.reactor.turns(1.0)
    assert (listeners.are_open, STANDBY in bench.messages) == (False, True)


def test_standby_names_another_program_that_has_the_lock(
    make: Callable[..., Bench], board: int
) -> None:
    """
    No worker of the service can have the lock, so another program has it.
    """

    class Waiting(MemoryStore):
        def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
            assert on_standby is not None
            on_standby()
            return Deferred()

    show(board, active_worker="", possible_lock_holders=1)
    bench = make(store=Waiting(), supervisor=3, scoreboard=board)
    bench.worker.startService()
    bench.reactor.turns(10.0)
    assert NOT_READY not in bench.messages
    show(board, active_worker="", possible_lock_holders=0)
    bench.reactor.turns(1.0)
    assert any("is in use by another process" in line for line in bench.messages)
    assert NOT_READY in bench.messages
    assert len(bench.reactor.tcpServers) == 1


def test_stopped_worker_does_not_retry_to_open_its_store(
    make: Callable[..., Bench], board: int
) -> None:
    store = Unusable(StoreError("gone"))
    show(board)
    bench = make(store=store, supervisor=3, scoreboard=board)
    bench.worker.startService()
    bench.stop()
    attempts = store.attempts
    bench.reactor.turns(20.0)
    assert (store.attempts, bench.statuses) == (attempts, [])


@pytest.fixture
def board() -> Iterator[int]:
    """
    Provide the scoreboard of a supervisor.
    """
    descriptor = scoreboard.create()
    yield descriptor
    os.close(descriptor)


def show(board: int, *, retry_opening: bool = True, **values: Any) -> None:
    """
    Show a report, of a service that a worker was active in.
    """
    write_report(board, SupervisorReport(retry_opening=retry_opening, **values))


def test_damaged_store_is_reported_to_the_supervisor_at_once(
    make: Callable[..., Bench],
) -> None:
    bench = make(store=Unusable(StoreDamaged("the store is damaged")), supervisor=3)
    bench.worker.startService()
    assert bench.statuses == [Status.DAMAGED]


def test_missing_file_is_a_misconfiguration(make: Callable[..., Bench]) -> None:
    """
    A restart does not help.  The worker does not open the store.
    """
    bench = make(access_log="/nowhere/log")
    bench.worker.startService()
    assert bench.statuses == [Status.MISCONFIGURED]
    reason = "the access log /nowhere/log: No such file or directory"
    assert (bench.exit.reason, bench.messages[-1]) == (reason, f"STATUS={reason}")


def test_wrong_scoreboard_names_the_option(make: Callable[..., Bench]) -> None:
    bench = make(scoreboard=999_999)
    bench.worker.startService()
    assert bench.exit.reason == "--scoreboard 999999: Bad file descriptor"


def test_children_of_a_worker_do_not_inherit_the_scoreboard(
    make: Callable[..., Bench],
) -> None:
    descriptor = scoreboard.create()
    try:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 its only argument
        make(scoreboard=descriptor).worker.startService()
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("error", "reason", "levels"),
    [
        (
            RuntimeError("a bug"),
            "cannot start: RuntimeError: a bug",
            [LogLevel.critical] * 2,
        ),
        (
            ValueError("no room"),
            "cannot listen on tcp:8081:interface=127.0.0.1: no room",
            [LogLevel.critical],
        ),
        (
            OSError(24, "Too many open files"),
            "cannot listen on tcp:8081:interface=127.0.0.1: Too many open files",
            [LogLevel.critical],
        ),
    ],
)
def test_exception_while_the_store_is_open_ends_the_worker(
    make: Callable[..., Bench], error: Exception, reason: str, levels: list[LogLevel]
) -> None:
    """
    The kernel gives the lock to another process.  Only a bug is logged with a traceback.
    """
    bench = make()
    bench.reactor.refusal = error
    with capturedLogs() as events:
        bench.worker.startService()
    assert (bench.statuses, bench.exit.reason) == ([Status.CANNOT_START], reason)
    logged_levels = [
        event["log_level"] for event in events if event["log_level"] is not LogLevel.info
    ]
    assert logged_levels == levels
    bench.stop()
    assert bench.store.closed


def test_exception_after_the_lock_ends_the_process(make: Callable[..., Bench]) -> None:

    class Waiting(MemoryStore):
        def open(self, on_standby: Callable[[], object] | None = None) -> Deferred[Cursor]:
            return opened

    opened: Deferred[Cursor] = Deferred()
    bench = make(store=Waiting())
    bench.worker.startService()
    assert bench.statuses == []
    bench.reactor.refusal = RuntimeError("a bug")
    opened.callback(Cursor(0, 0))
    assert bench.statuses == [Status.CANNOT_START]


def test_failed_store_ends_the_worker(make: Callable[..., Bench]) -> None:
    """
    The next worker reads the store from the disk.
    """
    bench = make()
    bench.worker.startService()
    bench.store.failure = OutcomeUnknown("mdb_txn_commit: Input/output error")
    answer = bench.ask_for_a_step()
    bench.reactor.turns(1.0)
    assert answer.value().startswith(b"HTTP/1.1 503 ")
    assert bench.statuses == [Status.STORE_FAILED]
    assert bench.messages[-1] == (
        "STATUS=the store failed (mdb_txn_commit: Input/output error), so this process ends"
    )


def test_bug_in_the_committer_is_not_reported_as_a_failed_store(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.worker.startService()
    monkeypatch.setattr(Counts, "count_commit", lambda *_: 1 / 0)
    bench.ask_for_a_step()
    with capturedLogs() as events:
        bench.reactor.turns(1.0)
    assert bench.statuses == [Status.BUG]
    assert bench.messages[-1] == "STATUS=a bug: ZeroDivisionError('division by zero')"
    (event,) = (event for event in events if "log_failure" in event)
    assert event["log_failure"].type is ZeroDivisionError
    assert event["log_format"] == "the committer failed"


def test_store_is_the_one_that_the_options_name(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = make()
    monkeypatch.setattr(assembly, "store_factory", store_factory)
    bench.worker = Worker(
        WorkerSettings(listen=LISTEN, store=f"lmdb:{tmp_path}/store"),
        cast(WorkerReactor, bench.reactor),
        bench.exit,
    )
    bench.worker.startService()
    assert bench.statuses == []
    assert READY in bench.messages
    assert (tmp_path / "store").is_dir()


def test_too_few_descriptors_allow_fewer_connections(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A warning has the number of connections.
    """
    monkeypatch.setattr(assembly, "affordable_connections", lambda _: 17)
    bench = make()
    with capturedLogs() as events:
        bench.worker.startService()
    (warning,) = [event for event in events if event["log_level"] is LogLevel.warn]
    assert (warning["wanted"], warning["allowed"]) == (10_000, 17)
