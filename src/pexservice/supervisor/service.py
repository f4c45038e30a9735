"""
The supervisor: it opens the sockets, starts the workers and keeps them alive.

It opens the listening sockets and never accepts from them.  It hands them down to its
workers, which all try to own the store: one does and serves, the others stand by with
everything imported and sleep in the kernel until the lock is free.  So when the worker
that serves dies, however it dies, the next one goes on within milliseconds without any
message, and a connection that came in between waits in the socket's queue.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorCore,
    IReactorFromThreads,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pexservice.process import scoreboard
from pexservice.process.descriptors import check_limit
from pexservice.process.exit_status import CannotStart, ProcessExit, Status
from pexservice.process.fd_endpoint import BACKLOG
from pexservice.process.listening import AddressInUse, Place, places, shown, stop_listening
from pexservice.process.parent import ORPHANS_INTERVAL, ORPHANS_PATIENCE
from pexservice.process.periodic import Periodic
from pexservice.process.reaping import bury_orphans
from pexservice.process.sd_notify import STOPPING, Notifier
from pexservice.process.start_signals import START_SIGNALS, StartSignals
from pexservice.stores.interface import StoreBusy, StoreUnusable
from pexservice.supervisor.child import Command
from pexservice.supervisor.plan import Plan
from pexservice.supervisor.replacement import Replacement
from pexservice.supervisor.reports import Reports
from pexservice.supervisor.roster import Roster
from pexservice.supervisor.worker_process import MESSAGES, Reactor

#: How often process 1 of a container reaps the processes that others left.  Seconds.
REAP_INTERVAL = 1.0

#: The variables that systemd sets for the supervisor and not for its workers.
_OURS = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")


class SupervisorReactor(Reactor, IReactorCore, IReactorFromThreads):
    """
    The parts of a reactor that a supervisor needs.
    """


class _NeverConnected(Factory):
    """
    The factory of sockets that this process never accepts from.
    """

    noisy = False


class Supervisor(Service):
    """
    The service of the supervisor, which keeps the workers alive.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: SupervisorReactor,
        *,
        listen: Sequence[str],
        plan: Plan,
        check_store: Callable[[], object],
        reread: Callable[[Plan, Sequence[str]], Plan],
        foreground: bool = True,
        environment: Mapping[str, str] = os.environ,
        process_exit: ProcessExit | None = None,
        signals: StartSignals = START_SIGNALS,
    ) -> None:
        """
        Make the service, without starting anything.

        @param listen: endpoint descriptions.
        @param plan: how workers are started and watched.
        @param check_store: checks cheaply whether a worker could open the store; raises
            L{StoreUnusable} if not.
        @param reread: reads the options again, for a reload; called with the present plan
            and the options that the operator lets lose something; raises L{CannotStart}
            if the options are wrong or lose something else.
        @param foreground: whether the program that started this process sees its standard
            error and its exit status.
        """
        self._reactor = reactor
        self._listen = listen
        self._plan = plan
        self._reread = reread
        self._check_store = check_store
        self._environment = environment
        self._exit = process_exit or ProcessExit(reactor, terminal=foreground)
        self._signals = signals
        self._ports: list[tuple[Place, IListeningPort]] = []
        # The inode of the file of each Unix socket that is ours.
        self._socket_files: dict[Path, int] = {}
        self._notifier = Notifier()
        self._scoreboard = -1
        self._roster: Roster | None = None
        self._reaping = Periodic(self._reap, reactor)

    # Starting.

    def privilegedStartService(self) -> None:
        """
        Open the sockets, before twistd gives up the rights that they may need.
        """
        super().privilegedStartService()
        self._notifier = Notifier.to_service_manager(self._environment)
        self._exit.watch_reactor()
        try:
            check_limit()
            for place in places(self._reactor, self._listen):
                self._open(place)
        except CannotStart as error:
            self._refuse(error)

    def _open(self, place: Place) -> None:
        # The workers of a supervisor that was killed may still listen there.
        end, told = time.monotonic() + ORPHANS_PATIENCE, False
        while True:
            try:
                port = place.listen_now(_NeverConnected())
            except AddressInUse as error:
                if self._signals.terminated or time.monotonic() > end:
                    raise
                if not told:
                    self._log.info("{reason}; retrying", reason=error)
                told = True
                self._signals.sleep(ORPHANS_INTERVAL)
            else:
                break
        # Never accept: the workers do.
        port.stopReading()  # type: ignore[attr-defined]
        with socket.socket(fileno=os.dup(port.fileno())) as copy:  # type: ignore[attr-defined]
            copy.listen(BACKLOG)
        self._ports.append((place, port))
        if (path := _socket_file(port)) is not None:
            self._socket_files[path] = path.stat().st_ino
        self._log.info("listening on {address}", address=shown(port.getHost()))

    def startService(self) -> None:
        """
        Check the store cheaply, and start the workers.

        The first worker has the store verified.
        """
        super().startService()
        try:
            if self._exit.reason is None and not self._signals.terminated:
                self._start()
        except (CannotStart, StoreUnusable) as error:
            self._refuse(error)
        except OSError as error:
            # For example, there are too few descriptors.
            self._refuse(CannotStart(f"cannot start: {error}"))
        finally:
            self._signals.hand_over(self._exit.stop)

    def _start(self) -> None:
        self._await_store()
        if self._signals.terminated:
            return
        self._scoreboard = scoreboard.create()
        reports = Reports(
            self._notifier,
            scoreboard.Score(standby=self._plan.standby),
            lambda score: scoreboard.write(self._scoreboard, score),
        )
        self._roster = roster = Roster(
            self._reactor,
            reports,
            plan=self._plan,
            launch=self._launch,
            give_up=self._exit_with,
        )
        replacement = Replacement(
            roster,
            reports,
            self._reactor,
            lambda plan: self._reread(plan, scoreboard.take_accepted(self._scoreboard)),
        )
        roster.start()
        # The request is made between two turns of the reactor.
        self._signals.on_hang_up(lambda: self._reactor.callFromThread(replacement.request))
        if os.getpid() == 1:
            self._reaping.start(REAP_INTERVAL)

    @property
    def _is_socket_activated(self) -> bool:
        """
        Return whether systemd keeps a socket open, so that clients hang when this ends.
        """
        return any(description.startswith("systemd:") for description in self._listen)

    def _await_store(self) -> None:
        """
        Wait until the workers of a supervisor that was killed have released the store.

        @raise StoreUnusable: a worker could not open it.
        """
        end = time.monotonic() + ORPHANS_PATIENCE
        while not self._signals.terminated:
            try:
                self._check_store()
            except StoreBusy:
                if time.monotonic() > end:
                    raise
                self._signals.sleep(ORPHANS_INTERVAL)
            except StoreUnusable as error:
                if (
                    not self._is_socket_activated
                    or error.exit_status != Status.CANNOT_START
                ):
                    raise
                # A worker says why to the clients, and tries again.
                return
            else:
                return

    def _refuse(self, error: CannotStart | StoreUnusable) -> None:
        self._exit_with(error.exit_status, str(error))

    def _exit_with(self, status: Status, reason: str) -> None:
        # systemctl status shows this line.
        self._notifier.notify(f"STATUS={reason}")
        self._exit.exit_with(status, reason)

    def _launch(self, plan: Plan, verify: bool, first: bool) -> Command:  # noqa: FBT001 the roster's call
        """
        Return the command that starts a worker by C{plan}.
        """
        ours = [port.fileno() for _, port in self._ports]  # type: ignore[attr-defined]
        board = MESSAGES + 1
        theirs = range(board + 1, board + 1 + len(ours))
        arguments = [*plan.worker, "--supervisor", str(MESSAGES)]
        arguments += ["--scoreboard", str(board)]
        for number in theirs:
            arguments += ["--listen", f"fd:{number}"]
        if not verify:
            # An earlier worker has had the store verified.
            arguments.append("--quick-check")
        if first and not self._is_socket_activated:
            arguments.append("--first-start")
        environment = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith(_OURS)
        }
        environment["WATCHDOG_USEC"] = str(int(plan.watchdog * 1e6))
        descriptors = {board: self._scoreboard, **dict(zip(theirs, ours, strict=True))}
        return Command(arguments, environment, descriptors, verifies=verify)

    def _reap(self) -> None:
        """
        Reap the processes that others left, and that process 1 of a container inherits.
        """
        workers = () if self._roster is None else self._roster.workers
        # Twisted waits for the workers itself.
        bury_orphans({each.pid for each in workers if each.pid is not None})

    # Stopping.

    def stopService(self) -> Deferred[None]:
        """
        Stop the workers, and wait until they are gone.
        """
        super().stopService()
        self._notifier.notify(STOPPING)
        self._reaping.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._roster is not None:
            await self._roster.stop()
        for place, port in self._ports:
            # systemd's sockets are not ours to remove, and neither is the file of another
            # socket that somebody has put in the place of ours.
            if not place.description.startswith("systemd:") and self._has_its_file(port):
                await stop_listening(port)
        if self._exit.reason is None:
            # systemd goes on showing the last status of a unit that has stopped.
            self._notifier.notify("STATUS=stopped")
        self._notifier.close()

    def _has_its_file(self, port: IListeningPort) -> bool:
        path = _socket_file(port)
        if path is None:
            return True
        try:
            return path.stat().st_ino == self._socket_files.get(path)
        except OSError:
            return False


def _socket_file(port: IListeningPort) -> Path | None:
    """
    Return the path of the file of C{port}, if it is a Unix socket with one.
    """
    match port.getHost():
        case UNIXAddress(name=bytes() as name) if not name.startswith(b"\0"):
            return Path(os.fsdecode(name))
    return None
