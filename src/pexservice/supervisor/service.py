"""
Keep-alive: sockets, processes, watchdog.

The supervisor opens the listening sockets and never accepts from them.  It hands
them down to its workers, which all try to own the store: one does and serves, the
others stand by with everything imported and sleep in the kernel until the lock is
free.  So when the one that serves dies, however it dies, the next one goes on within
milliseconds without any message, and a connection that came in between waits in the
socket's queue.

Each worker says in systemd's notify protocol what it is and that it is alive.  One
that is silent is made to say where it hangs, and is killed.  One that ends is
replaced; unless it says that there is no use in that.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IListeningPort, IProcessTransport, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.runner.procmon import ProcessMonitor

from pexservice.process import scoreboard
from pexservice.process.exit_status import CannotStart, Leaving, Status
from pexservice.process.fd_endpoint import BACKLOG
from pexservice.process.listening import places, shown, stop_listening
from pexservice.process.sd_notify import READY, STOPPING, Listener, Notifier
from pexservice.settings.option import command_line
from pexservice.settings.options import Settings, Supervision
from pexservice.stores.interface import StoreUnusable
from pexservice.stores.lmdb.child import ask_child
from pexservice.supervisor.roster import Crew
from pexservice.supervisor.worker_process import Command, Spawner

#: How a worker is run: on uvloop where that is installed.  Its log has no times, for
#: the supervisor's log has them.
WORKER = (
    *(sys.executable, "-m", "pexservice"),
    *(("--reactor=uvloop",) if find_spec("uvloop") else ()),
    *("--nodaemon", "--pidfile=", "--logger=pexservice.worker.lifecycle.observer"),
    "pexservice-worker",
)

#: How long a start waits for a worker that is about to serve, at a time.  Seconds.
STEP_ASIDE = 0.05

#: How long one that is silent has to write its traceback.  Seconds.
LAST_WORDS = 1.0

#: How long a replacement may take until it stands by.  Seconds.
REPLACEMENT_PATIENCE = 15.0

#: Ends that make a look at the whole store advisable: what reading a missing page
#: leads to, and what a worker says when the store failed.
_SUSPICIOUS = {-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT, Status.STORE_FAILED}

#: What a worker that ended by itself says.
_REASONS: dict[int, str] = {
    Status.STORE_FAILED: scoreboard.STORE_FAILED,
    Status.CANNOT_START: scoreboard.CANNOT_START,
}

#: What systemd tells us, and not our workers.
_OURS = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")


class _Deaf(Factory):
    """
    For sockets that are never accepted from here.
    """

    noisy = False


class Supervisor(ProcessMonitor):
    """
    The service that keeps the service alive.
    """

    log = Logger()

    # procmon's: a worker that lived for a second is replaced at once, one that did
    # not after a delay that begins at 0.05 seconds and doubles up to 5 until one of
    # them serves.
    threshold = 1
    minRestartDelay = 0.05  # type: ignore[assignment]
    maxRestartDelay = 5
    # A worker that is told to stop takes less than 4 seconds.
    killTime = 7

    def __init__(
        self,
        settings: Settings,
        supervision: Supervision,
        reactor: object,
        leaving: Leaving | None = None,
    ) -> None:
        self._settings = settings
        self._supervision = supervision
        self._clock_ = IReactorTime(reactor)
        super().__init__(Spawner(reactor, self))
        self._base = reactor
        self._leaving = leaving or Leaving(
            reactor,  # type: ignore[arg-type]
            terminal=settings.foreground,
        )
        self._ports: list[IListeningPort] = []
        self._crew = Crew(self._clock_.seconds, supervision.watchdog)
        self._names = (f"worker-{number}" for number in _count_up())
        self._notifier = Notifier({})
        self._listener: Listener | None = None
        self._lifeline = (-1, -1)
        self._score = scoreboard.Score(standby=supervision.standby)
        self._scoreboard: int | None = None
        self._roster: list[str] = []
        self._suspicious = False
        self._rolling = False
        self._roll_again = False
        self._watch = LoopingCall(self._look)
        self._watch.clock = self._clock_
        self._reap = LoopingCall(self._adopt_the_dead)
        self._reap.clock = self._clock_

    # Starting.

    def privilegedStartService(self) -> None:
        """
        Open the sockets, before twistd gives up the rights that they may need.
        """
        super().privilegedStartService()
        failures: list[Failure] = []
        Deferred.fromCoroutine(self._listen()).addErrback(failures.append)
        if failures:
            self._refuse(failures[0])

    async def _listen(self) -> None:
        for place in places(self._base, self._settings.listen):
            port = await place.listen(_Deaf())
            # Never accept: the workers do.
            port.stopReading()  # type: ignore[attr-defined]
            with socket.socket(fileno=os.dup(port.fileno())) as copy:  # type: ignore[attr-defined]
                copy.listen(BACKLOG)
            self._ports.append(port)
            self.log.info("listening on {address}", address=shown(port.getHost()))

    def startService(self) -> None:
        """
        See whether a worker would start, and start them.

        @raise CannotStart: for who does not see standard error.
        """
        if self._leaving.leaving:
            return
        settings = self._settings
        try:
            arguments = command_line(settings)
            ask_child(
                Path(settings.directory).resolve(), "pexservice.cli.check", *arguments
            )
        except StoreUnusable:
            self._refuse(Failure())
            return
        self._notifier = Notifier(os.environ)
        self._lifeline = os.pipe()
        self._scoreboard = scoreboard.create()
        self._show_score()
        self._listener = Listener(self._base, self._heard)  # type: ignore[arg-type]
        self._listener.start()
        for _ in range(1 + self._supervision.standby):
            self._add()
        signal.signal(
            signal.SIGHUP,
            lambda *_: self._base.callFromThread(self.replace),  # type: ignore[attr-defined]
        )
        super().startService()
        self._watch.start(self._supervision.watchdog / 4, now=False)
        if os.getpid() == 1:
            self._reap.start(1.0)

    def _refuse(self, failure: Failure) -> None:
        reason = failure.getErrorMessage()
        if not self._settings.foreground:
            raise CannotStart(reason) from failure.value
        status = getattr(failure.value, "exit_status", Status.CANNOT_START)
        self._leaving.leave(status, reason)

    def _add(self) -> str:
        """
        One more worker.
        """
        name = next(self._names)
        self._roster.append(name)
        self.addProcess(name, list(WORKER))
        return name

    def startProcess(self, name: str) -> None:
        """
        See L{ProcessMonitor.startProcess}.  While one worker is about to serve, it has
        the processors to itself: on one processor, two that start at once would make
        the first answer half as late again.
        """
        if self._crew.in_succession:
            self.restart[name] = self._clock_.callLater(STEP_ASIDE, self.startProcess, name)
        else:
            super().startProcess(name)

    # What the workers are told, and what they do; see
    # L{pexservice.supervisor.worker_process.Observer}.

    def command(self, name: str) -> Command:
        """
        What a worker is told now; it depends on how the last one ended.
        """
        listener, (lifeline, _) = cast(Listener, self._listener), self._lifeline
        ours = [port.fileno() for port in self._ports]  # type: ignore[attr-defined]
        theirs = range(3, 3 + len(ours))
        arguments = [*WORKER, *self._passed_on(), "--lifeline", str(theirs.stop)]
        descriptors = dict(zip((*theirs, theirs.stop), (*ours, lifeline), strict=True))
        if self._scoreboard is not None:
            descriptors[theirs.stop + 1] = self._scoreboard
            arguments += ["--scoreboard", str(theirs.stop + 1)]
        for number in theirs:
            arguments += ["--listen", f"fd:{number}"]
        if not self._suspicious:
            arguments.append("--quick-check")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_OURS)
        }
        environment["NOTIFY_SOCKET"] = listener.name
        environment["WATCHDOG_USEC"] = str(int(self._supervision.watchdog * 1e6))
        return Command(arguments, environment, descriptors)

    def _passed_on(self) -> Iterator[str]:
        # The sockets are handed down instead.
        return command_line(attrs.evolve(self._settings, listen=()))

    def spawned(self, name: str, transport: IProcessTransport) -> None:
        """
        A worker runs.
        """
        self._crew.joined(name, transport)

    def said(self, name: str, line: str) -> None:
        """
        A worker has written a line.
        """
        self.log.info("[{name}] {line}", name=name, line=line)

    def _heard(self, pid: int, lines: list[str]) -> None:
        """
        A process has notified us.
        """
        passed_on = self._crew.hear(pid, lines)
        self._show_score()
        if READY in passed_on:
            # Starting works, so there is no reason to wait longer each time.
            self.delay = dict.fromkeys(self.delay, self.minRestartDelay)
        if passed_on:
            self._notifier.tell(*passed_on)

    def ended(self, name: str, reason: Failure) -> None:
        """
        A worker has ended, and procmon is about to start another.
        """
        code, how = _how_it_ended(reason)
        if code in _SUSPICIOUS:
            # First: who waits for a worker to leave starts the next one at once.
            self._suspicious = True
        if self.running:
            self._count_end(name, code)
        status = self._crew.left(name)
        self._show_score()
        if self.running:
            self.log.info("{name} ended {how}", name=name, how=how)
            if code in (Status.DAMAGED, Status.MISCONFIGURED):
                self._leaving.leave(Status(code), status or f"{name} ended {how}")

    def _count_end(self, name: str, code: int) -> None:
        planned = name not in self._roster
        if planned:
            reason = scoreboard.REPLACED
        elif self._crew.is_condemned(name):
            reason = scoreboard.SILENT
        elif code < 0:
            reason = scoreboard.KILLED
        else:
            reason = _REASONS.get(code, scoreboard.FAILED)
        self._score.restarts[reason] += 1
        self._score.failovers += self._crew.served(name) and not planned

    def _show_score(self) -> None:
        if self._scoreboard is not None:
            self._score.standing_by = self._crew.standing_by
            scoreboard.write(self._scoreboard, self._score)

    # The watchdog.

    def _look(self) -> None:
        """
        Is one of them silent?
        """
        for process in self._crew.condemn():
            _send(process, signal.SIGABRT)
            self._clock_.callLater(LAST_WORDS, _send, process, signal.SIGKILL)

    def _adopt_the_dead(self) -> None:
        """
        Process 1 of a container inherits what others leave, and has to bury it.
        """
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # Twisted waits for the workers itself.
            if found is None or found.si_pid in self._crew.pids:
                return
            os.waitpid(found.si_pid, 0)

    # Replacing and stopping.

    def replace(self) -> None:
        """
        Replace the workers one by one, each with what the installed code and the
        files are now, and without refusing anybody.
        """
        if self._rolling:
            self._roll_again = True
            return
        self._rolling = True
        Deferred.fromCoroutine(self._replace()).addErrback(
            lambda failure: self.log.failure("the workers stay", failure=failure)
        )

    async def _replace(self) -> None:
        self.log.info("replacing the workers")
        try:
            old = list(self._roster)
            serving = [name for name in old if self._crew.serves(name)]
            new = self._add()
            if not await self._until_it_is_up(new):
                if self.running:
                    self.log.error("{name} does not come up, the old ones stay", name=new)
                    self.removeProcess(new)
                return
            # First who stands by, so that it is the new one that takes over.
            for group in (set(old) - set(serving), serving):
                for name in group:
                    self.removeProcess(name)
                while any(name in self._crew for name in group):
                    await self._crew.change()
            while self.running and len(self._roster) < 1 + self._supervision.standby:
                await self._until_it_is_up(self._add())
            self.log.info("the workers are replaced")
        finally:
            self._rolling = False
            if self._roll_again and self.running:
                self._roll_again = False
                self.replace()

    async def _until_it_is_up(self, name: str) -> bool:
        end = self._clock_.seconds() + REPLACEMENT_PATIENCE
        ticking = LoopingCall(self._crew.stir)
        ticking.clock = self._clock_
        ticking.start(1.0, now=False)
        try:
            while self.running and self._clock_.seconds() < end:
                if self._crew.is_up(name):
                    return True
                await self._crew.change()
        finally:
            ticking.stop()
        return False

    def removeProcess(self, name: str) -> None:
        """
        See L{ProcessMonitor.removeProcess}.
        """
        if name in self.restart and self.restart[name].active():
            self.restart[name].cancel()
        self._roster.remove(name)
        super().removeProcess(name)

    def stopService(self) -> Deferred[None]:  # type: ignore[override]
        """
        Stop the workers, and be done when they are gone.
        """
        if self.running:
            self._notifier.tell(STOPPING)
            super().stopService()
        for loop in (self._watch, self._reap):
            if loop.running:
                loop.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        while self._crew:
            await self._crew.change()
        if self._listener is not None:
            self._listener.stop()
        for port, description in zip(self._ports, self._settings.listen, strict=False):
            # systemd's sockets are not ours to remove.
            if not description.startswith("systemd:"):
                await stop_listening(port)


def _count_up() -> Iterator[int]:
    number = 1
    while True:
        yield number
        number += 1


def _send(process: IProcessTransport, number: signal.Signals) -> None:
    try:
        process.signalProcess(number)
    except ProcessExitedAlready:
        return


def _how_it_ended(reason: Failure) -> tuple[int, str]:
    """
    @return: as L{subprocess} has it, minus the signal or the exit status; and in
        words.
    """
    number = getattr(reason.value, "signal", None)
    if number is not None:
        # Not every signal has a name.
        names = {each.value: each.name for each in signal.Signals}
        return -number, f"by {names.get(number, f'signal {number}')}"
    status = getattr(reason.value, "exitCode", None)
    return status or 0, f"with status {status or 0}"
