"""
The supervisor: it opens the sockets, starts the workers and keeps them alive.

The supervisor opens the listening sockets and never accepts connections.  Its workers
inherit the sockets and try to lock the store.  One worker gets the lock and becomes active.
Another worker is the standby: it has imported all modules, and one of its threads sleeps in
the kernel until the lock is free.  When the active worker dies, the kernel wakes this
thread, and the standby takes over within milliseconds, without any message from the
supervisor.  New connections wait in the queue of the socket meanwhile.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pexservice.process import scoreboard
from pexservice.process.accepted_losses import take_accepted_losses
from pexservice.process.children import reap_orphans, retry_while_busy
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.listening import (
    BACKLOG,
    AddressInUse,
    ListenEndpoint,
    check_open_file_limit,
    format_address,
    listen_endpoints,
    local_address,
    socket_file,
)
from pexservice.process.sd_notify import STOPPING, Notifier
from pexservice.process.signals import START_SIGNALS
from pexservice.process.supervisor_report import SupervisorReport, write_report
from pexservice.process.timing import Periodic
from pexservice.stores.errors import StoreBusy, StoreError
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import (
    MESSAGES_FD,
    PIPES,
    SupervisedWorker,
    SupervisorReactor,
)
from pexservice.supervisor.worker_pool import WorkerPool
from pexservice.supervisor.worker_setup import WorkerSetup

#: If the supervisor is process 1 of a container, it reaps orphans at this interval.
REAP_INTERVAL_SECONDS = 1.0

#: The descriptor of the scoreboard in a worker, which inherits it from the supervisor.
SCOREBOARD_FD = MESSAGES_FD + 1

#: The names of systemd's environment variables begin with these texts.  The variables are
#: for the supervisor, so workers do not inherit them.
_SYSTEMD_VARIABLES = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")


class Supervisor(Service):
    _log = Logger()

    def __init__(
        self,
        reactor: SupervisorReactor,
        setup: WorkerSetup,
        reread_options: Callable[[WorkerSetup, Sequence[str]], WorkerSetup],
    ) -> None:
        """
        Make the service, without starting anything.

        @param reread_options: C{RunningOptions.reread} of C{pexservice.cli.twistd}, which a
            reload calls.  Its arguments are the present setup, and the options that the
            operator named in C{pexctl reload --accept}.
        """
        self._reactor = reactor
        self._setup = setup
        self._reread_options = reread_options
        self._exit = ProcessExit(reactor, terminal=setup.settings.foreground)
        self._signals = START_SIGNALS
        # For a Unix socket with a file, the third element is the inode of that file.
        self._ports: list[tuple[ListenEndpoint, IListeningPort, int | None]] = []
        self._address = ""
        self._notifier = Notifier.to_service_manager()
        self._pool: WorkerPool | None = None

    # Starting.

    def privilegedStartService(self) -> None:
        """
        Open the sockets.  This may need privileges, which twistd drops afterwards.
        """
        super().privilegedStartService()
        self._exit.watch_reactor()
        try:
            check_open_file_limit()
            for endpoint in listen_endpoints(self._reactor, self._setup.settings.listen):
                self._open(endpoint)
        except CannotStart as error:
            self._exit_with(error.exit_status, str(error))

    def _open(self, endpoint: ListenEndpoint) -> None:
        port: Any = retry_while_busy(
            lambda: endpoint.listen(Factory()), AddressInUse, self._signals.sleep
        )
        # The supervisor never accepts connections.
        port.stopReading()
        # Twisted listens with a backlog of 50.  A second listen() makes the backlog longer.
        with socket.socket(fileno=os.dup(port.fileno())) as copy:
            copy.listen(BACKLOG)
        self._ports.append((endpoint, port, _inode(port)))
        self._address = self._address or local_address(port.getHost())
        self._log.info("listening on {address}", address=format_address(port.getHost()))

    def startService(self) -> None:
        """
        Check the store cheaply, and start the workers.

        The first worker verifies the whole store.
        """
        super().startService()
        try:
            if self._exit.reason is None and not self._signals.terminated:
                self._start()
        except (CannotStart, StoreError) as error:
            self._exit_with(error.exit_status, str(error))
        except OSError as error:
            # For example, this process has no free file descriptor.
            self._exit_with(Status.CANNOT_START, f"cannot start: {error}")
        finally:
            self._signals.leave_to_reactor(self._exit.stop)

    def _start(self) -> None:
        try:
            retry_while_busy(
                self._setup.settings.check_store, StoreBusy, self._signals.sleep
            )
        except StoreError as error:
            if self._signals.terminated:
                return
            if not self._has_sockets_of_systemd or error.exit_status != Status.CANNOT_START:
                raise
            # systemd keeps its sockets open: if this process ended now, clients would
            # connect and wait for ever.  So start a worker, which sends them the reason.
        scoreboard_fd = scoreboard.create()
        reporter = Reporter(
            self._notifier,
            SupervisorReport(
                wanted_standby_count=self._setup.standby_count,
                retry_opening=self._has_sockets_of_systemd,
                address=self._address,
                has_tls=self._setup.settings.tls is not None,
            ),
            partial(write_report, scoreboard_fd),
        )
        self._pool = pool = WorkerPool(
            self._reactor,
            reporter,
            setup=self._setup,
            spawn=partial(self._spawn, scoreboard_fd),
            reread_options=lambda setup: self._reread_options(
                setup, take_accepted_losses(scoreboard_fd)
            ),
            end_service=self._exit_with,
        )
        pool.start()
        # SIGHUP may interrupt any code of this process.  So its handler only asks the
        # reactor to begin the reload in the next iteration.
        self._signals.on_hang_up(lambda: self._reactor.callFromThread(pool.reload))
        if os.getpid() == 1:
            # The workers are no orphans: Twisted reaps them.
            reaping = Periodic(
                lambda: reap_orphans({worker.pid for worker in pool.running}),
                self._reactor,
            )
            reaping.start(REAP_INTERVAL_SECONDS)

    @property
    def _has_sockets_of_systemd(self) -> bool:
        return any(
            description.startswith("systemd:")
            for description in self._setup.settings.listen
        )

    def _exit_with(self, status: Status, reason: str) -> None:
        # systemctl status shows this line.
        self._notifier.notify(f"STATUS={reason}")
        self._exit.exit_with(status, reason)

    def _spawn(self, scoreboard_fd: int, worker: SupervisedWorker) -> None:
        """
        Start a process of C{worker}, which inherits the scoreboard and the sockets.
        """
        # The keys are descriptors of the worker, the values descriptors of this process.
        descriptors = {SCOREBOARD_FD: scoreboard_fd}
        command = [*worker.setup.command, "--supervisor", str(MESSAGES_FD)]
        command += ["--scoreboard", str(SCOREBOARD_FD)]
        for number, (_, port, _) in enumerate(self._ports, SCOREBOARD_FD + 1):
            descriptors[number] = port.fileno()  # type: ignore[attr-defined]
            command += ["--listen", f"fd:{number}"]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_SYSTEMD_VARIABLES)
        }
        environment["WATCHDOG_USEC"] = f"{worker.setup.watchdog * 1e6:.0f}"
        self._reactor.spawnProcess(
            worker, command[0], command, environment, childFDs={**PIPES, **descriptors}
        )

    # Stopping.

    def stopService(self) -> Deferred[None]:
        """
        Stop the workers, and wait until they are gone.
        """
        super().stopService()
        self._notifier.notify(STOPPING)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._pool is not None:
            await self._pool.stop()
        for endpoint, port, inode in self._ports:
            # Closing a port removes the file of its Unix socket.  The file must stay if
            # systemd has made it, or if another program has replaced it.
            if not endpoint.description.startswith("systemd:") and _inode(port) == inode:
                await maybeDeferred(port.stopListening)
        if self._exit.reason is None:
            # When the unit has stopped, systemd still shows the last status text.
            self._notifier.notify("STATUS=stopped")
        self._notifier.close()


def _inode(port: IListeningPort) -> int | None:
    """
    Return the inode of a Unix socket's file, or C{None} if C{port} has no file.
    """
    with suppress(OSError):
        return None if (file := socket_file(port)) is None else file.stat().st_ino
    return None
