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

from twisted.application.service import Service
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
from pexservice.process.exit_status import CannotStart, ProcessExit, Status, tell_starter
from pexservice.process.fd_endpoint import BACKLOG
from pexservice.process.listening import AddressInUse, Place, places, shown, stop_listening
from pexservice.process.parent import ORPHANS_INTERVAL, ORPHANS_PATIENCE
from pexservice.process.periodic import Periodic
from pexservice.process.reaping import bury_orphans
from pexservice.process.sd_notify import STOPPING, Notifier
from pexservice.process.start_signals import START_SIGNALS, StartSignals
from pexservice.process.verification import VerificationProgress
from pexservice.supervisor.check import Check
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
        check: Sequence[str],
        store: str,
        reread: Callable[[], Plan],
        foreground: bool = True,
        environment: Mapping[str, str] = os.environ,
        process_exit: ProcessExit | None = None,
        signals: StartSignals = START_SIGNALS,
    ) -> None:
        """
        Make the service, without starting anything.

        @param listen: endpoint descriptions.
        @param plan: how workers are started and watched.
        @param check: the command that checks whether a worker would start.
        @param store: the store, as the operator knows it.
        @param reread: reads the options again, for a reload; raises L{CannotStart} if
            they are wrong.
        @param foreground: whether the program that started this process sees its standard
            error and its exit status.
        """
        self._reactor = reactor
        self._listen = listen
        self._plan = plan
        self._reread = reread
        self._check = check
        self._store = store
        self._foreground = foreground
        self._environment = environment
        self._exit = process_exit or ProcessExit(reactor, terminal=foreground)
        self._signals = signals
        self._ports: list[tuple[Place, IListeningPort]] = []
        self._notifier = Notifier()
        self._scoreboard = -1
        self._roster: Roster | None = None
        self._reaping = Periodic(self._reap, reactor)

    # Starting.

    def privilegedStartService(self) -> None:
        """
        Open the sockets, before twistd gives up the rights that they may need.

        @raise CannotStart: the start failed, and the program that started this process
            does not see standard error.
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
                    self._log.info("{reason}, and is tried again", reason=error)
                told = True
                self._signals.sleep(ORPHANS_INTERVAL)
            else:
                break
        # Never accept: the workers do.
        port.stopReading()  # type: ignore[attr-defined]
        with socket.socket(fileno=os.dup(port.fileno())) as copy:  # type: ignore[attr-defined]
            copy.listen(BACKLOG)
        self._ports.append((place, port))
        self._log.info("listening on {address}", address=shown(port.getHost()))

    def startService(self) -> None:
        """
        Check whether a worker would start, and start the workers.

        @raise CannotStart: the start failed, and the program that started this process
            does not see standard error.
        """
        super().startService()
        try:
            if self._exit.reason is None and not self._signals.terminated:
                self._start()
        except CannotStart as error:
            self._refuse(error)
        except OSError as error:
            # For example, there are too few descriptors.
            self._refuse(CannotStart(f"cannot start: {error}"))
        finally:
            self._signals.hand_over(self._exit.stop)

    def _start(self) -> None:
        progress = VerificationProgress(self._notifier.notify)
        Check(self._check, self._store, progress, self._signals).run()
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
        replacement = Replacement(roster, reports, self._reactor, self._reread)
        roster.start()
        # The request is made between two turns of the reactor.
        self._signals.on_hang_up(lambda: self._reactor.callFromThread(replacement.request))
        if os.getpid() == 1:
            self._reaping.start(REAP_INTERVAL)

    def _refuse(self, error: CannotStart) -> None:
        if not self._foreground:
            tell_starter(str(error))
            raise error
        self._exit_with(error.exit_status, str(error))

    def _exit_with(self, status: Status, reason: str) -> None:
        # systemctl status shows this line.
        self._notifier.notify(f"STATUS={reason}")
        self._exit.exit_with(status, reason)

    def _launch(self, plan: Plan, verify: bool) -> Command:  # noqa: FBT001 the roster's call
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
            # The store was verified at the start.
            arguments.append("--quick-check")
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
            # systemd's sockets are not ours to remove.
            if not place.description.startswith("systemd:"):
                await stop_listening(port)
        self._notifier.close()
