"""
The machine that the processes run on, and its supervisor.
"""

from __future__ import annotations

import random
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.process.sd_notify import Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import SupervisorReactor, WorkerProcess
from pexservice.supervisor.worker_setup import WorkerSetup
from pexservice.supervisor.workers import Workers
from tests.labs.simulation.process import WATCHDOG, Phase, Process, Request
from tests.support.fakes import MemoryStore, Turns

#: More transitions and keys than a simulation makes.
MANY = 1_000_000


class _Supervisor:
    """
    The supervisor's decisions, without sockets and a check.

    @ivar workers: the workers, which a SIGHUP replaces.
    @ivar report: what the workers can read.
    """

    def __init__(self, machine: Machine) -> None:
        self.report = SupervisorReport(wanted_standby_count=1)
        reporter = Reporter(Notifier(), self.report, lambda _: None)
        setup = WorkerSetup(command=["worker"], watchdog=WATCHDOG, standby_count=1)
        self.workers = Workers(
            cast(SupervisorReactor, machine),
            reporter,
            setup=setup,
            spawn=machine.spawn,
            reread_options=lambda _: setup,
            end_service=lambda status, reason: machine.note(f"{status!r}: {reason}"),
        )

    def knows(self, process: Process) -> bool:
        """
        Return whether the supervisor knows what C{process} does.
        """
        state = process.worker.state
        return state.name == process.phase.name and process.worker.pid == process.pid


@implementer(IReactorTime)
class Machine(Turns):
    """
    The simulated machine, which is the supervisor's reactor, too.

    @ivar tick: how many events there were.
    @ivar trace: what happened.
    @ivar disk: the disk that outlives the processes.
    @ivar owner: the process that has the lock.
    @ivar backlog: requests that no worker has accepted.
    @ivar lossy: the share of the notifications that are lost.
    @ivar suspicious_ends: how many processes ended in a way that a bad disk can cause.
    @ivar bugs: failures that should not have been raised.
    """

    def __init__(self, choose: random.Random) -> None:
        super().__init__()
        self.tick = 0
        self.trace: list[str] = []
        self.choose = choose
        self.disk = MemoryStore(journal=MANY, kept_keys=MANY)
        self.owner: Process | None = None
        self.processes: list[Process] = []
        self.backlog: list[Request] = []
        self.lossy = 0.0
        self.bugs: list[Failure] = []
        self.spawned = 0
        self.suspicious_ends = 0
        self.supervisor = _Supervisor(self)

    def spawn(self, worker: ProcessProtocol, _: WorkerSetup) -> None:
        """
        Begin a process.
        """
        # The process reads this number, and verifies the store if it has grown.
        assert self.supervisor.report.suspicious_ends == self.suspicious_ends
        self.spawned += 1
        process = Process(self, cast(WorkerProcess, worker), self.spawned)
        self.note(f"{process} begins")
        self.processes.append(process)
        # Two, one that replaces them, and one that did not come up and is killed soon.
        assert len(self.processes) <= 4, "too many processes"

    def drops(self) -> bool:
        """
        Return whether this notification is lost.
        """
        return self.lossy > 0 and self.choose.random() < self.lossy

    def note(self, line: str) -> None:
        """
        Put C{line} into the trace.
        """
        self.trace.append(f"{self.tick:4} {self.seconds():8.3f} {line}")

    def ended(self, process: Process, *, suspicious: bool) -> None:
        """
        Remove a process that has ended.

        The batch that the process was writing is on the disk, or is not.
        """
        if process.store.under_way is not None and self.choose.random() < 1 / 2:
            process.store.write()
        self.note(f"{process} ends, the disk is at {self.disk.cursor.revision}")
        self.processes.remove(process)
        self.suspicious_ends += suspicious
        if self.owner is process:
            self.owner = None

    def pass_lock(self) -> None:
        """
        Give the lock, if no process has it, to a process that waits.
        """
        if self.owner is not None:
            return
        waiting = [
            process
            for process in self.processes
            if process.runs and process.phase is Phase.STANDBY
        ]
        if waiting:
            self.owner = self.choose.choice(waiting)
            self.note(f"{self.owner} owns the store")
            self.owner.store.give_lock()
