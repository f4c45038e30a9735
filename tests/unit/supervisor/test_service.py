"""
The supervisor as a service: its sockets, its start and its end.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Self, cast
from unittest.mock import Mock

import pytest
from attrs import evolve
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from pexservice.process import scoreboard
from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import ALIVE, READY
from pexservice.process.signals import StartSignals
from pexservice.process.supervisor_report import read_report
from pexservice.stores.errors import StoreBusy, StoreDamaged, StoreError
from pexservice.supervisor import service
from pexservice.supervisor.service import Supervisor
from pexservice.supervisor.supervised_worker import SupervisorReactor
from pexservice.supervisor.worker_setup import WorkerSetup
from tests.support.fakes import now
from tests.support.processes import ProcessReactor, SpawnedProcess

LOOPBACK = "tcp:0:interface=127.0.0.1"

SETUP = WorkerSetup(command=["worker", "--journal", "7"], watchdog=5.0, standby_count=1)


class ListeningReactor(ProcessReactor):
    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        opened_port: Any = tcp.Port(port, factory, backlog, interface, self)
        opened_port.startListening()
        return opened_port  # type: ignore[no-any-return]


class Bench:
    """
    A supervisor with its surroundings.

    @ivar statuses: the exit statuses of the process, when it ends.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.reactor = ListeningReactor()
        self.signals = StartSignals()
        self.statuses: list[Status] = []
        monkeypatch.setattr(service, "START_SIGNALS", self.signals)
        monkeypatch.setattr(
            atexit, "register", lambda _, *status: self.statuses.extend(status)
        )
        defaults = {"listen": (LOOPBACK,), "check_store": lambda: None}
        shown = Mock(**defaults | settings, tls=None, foreground=False)
        self.supervisor = Supervisor(
            cast(SupervisorReactor, self.reactor),
            evolve(SETUP, settings=shown),
            lambda *_: SETUP,
        )

    @property
    def reason(self) -> str | None:
        """
        Return why the process ends.
        """
        return self.supervisor._exit.reason

    def started(self) -> Self:
        """
        Start the supervisor as twistd does.
        """
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        return self

    @property
    def processes(self) -> list[SpawnedProcess]:
        """
        Return the processes that run.
        """
        return [process for process in self.reactor.spawned if process.alive]

    def stop(self) -> None:
        """
        Stop the supervisor, and have its processes end.
        """
        if not self.supervisor.running:
            return
        stopped: Any = self.supervisor.stopService()
        for process in self.processes:
            assert process.signals == [signal.SIGTERM]
            process.end(by=signal.SIGTERM)
        self.reactor.turns(0.2)
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
        bench.stop()


def test_worker_inherits_sockets_and_scoreboard(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The worker's environment has none of systemd's variables.
    """
    monkeypatch.setattr(
        os, "environ", {"PATH": "/bin", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1"}
    )
    bench = make(listen=[LOOPBACK, LOOPBACK]).started()
    (process,) = bench.processes
    assert process.arguments == [
        *("worker", "--journal", "7", "--supervisor", "3", "--scoreboard", "4"),
        *("--listen", "fd:5", "--listen", "fd:6"),
    ]
    assert process.descriptors.keys() == {0, 1, 2, 3, 4, 5, 6}
    assert process.environment == {"PATH": "/bin", "WATCHDOG_USEC": "5000000"}
    # The supervisor does not accept connections.
    assert bench.reactor.getReaders() == []


def test_supervisor_notifies_the_service_manager(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The last status, which systemd shows as long as the unit is stopped, says so.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        name = "@" + manager.getsockname()[1:].decode()
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        bench = make().started()
        bench.processes[0].notify(READY, ALIVE)
        bench.stop()
        messages = [manager.recv(1000) for _ in range(4)]
    lines = [b"READY=1\n", b"WATCHDOG=1\n", b"STOPPING=1\n", b"STATUS=stopped\n"]
    assert messages == lines


def test_socket_of_systemd_gets_responses_although_the_store_is_missing(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The workers say why, since clients of a socket that systemd keeps open would hang.

    Without such a socket, the start ends.  A damaged store ends the start in any case.
    """
    monkeypatch.setattr(service, "listen_endpoints", lambda *_: [])
    check_store = Mock(side_effect=[StoreError("no store"), StoreDamaged("damaged")])
    bench = make(listen=["systemd:all"], check_store=check_store).started()
    report = read_report(cast(int, bench.processes[0].descriptors[4]))
    assert report is not None
    assert report.retry_opening
    bench = make(listen=["systemd:all"], check_store=check_store).started()
    assert bench.statuses == [Status.DAMAGED]
    bench = make(check_store=Mock(side_effect=StoreError("no store"))).started()
    assert (bench.statuses, bench.processes) == ([Status.CANNOT_START], [])
    assert bench.reason == "no store"


def test_start_waits_for_the_workers_of_a_killed_supervisor(
    make: Callable[..., Bench],
) -> None:
    check_store = Mock(side_effect=[StoreBusy("in use"), StoreBusy("in use"), None])
    assert len(make(check_store=check_store).started().processes) == 1


def test_lack_of_descriptors_is_reported_in_one_line(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(24, "Too many open files")
    monkeypatch.setattr(scoreboard, "create", Mock(side_effect=error))
    bench = make().started()
    assert bench.statuses == [Status.CANNOT_START]
    assert bench.reason == "cannot start: [Errno 24] Too many open files"


@pytest.mark.parametrize("when", ["before", "during the wait for the store", "after"])
def test_sigterm_during_the_start_ends_the_process(
    make: Callable[..., Bench], when: str
) -> None:
    """
    The status is 0.  There are then no workers but those that had begun.
    """

    def check() -> None:
        if when == "during the wait for the store":
            bench.signals.terminate()
            raise StoreBusy("in use")

    bench = make(check_store=check)
    if when == "before":
        bench.signals.terminate()
    bench.started()
    if when == "after":
        bench.signals.terminate()
    for stop, _, _ in bench.reactor.whenRunningHooks:
        stop()
    assert bench.reactor.hasStopped
    assert bench.statuses == []
    assert len(bench.processes) == (when == "after")
