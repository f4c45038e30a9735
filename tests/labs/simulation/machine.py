"""
The simulated machine and its supervisor.
"""

from __future__ import annotations

import random
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.process.sd_notify import Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import SupervisedWorker, SupervisorReactor
from pexservice.supervisor.worker_pool import WorkerPool
from pexservice.supervisor.worker_setup import WorkerSetup
from tests.labs.simulation.process import WATCHDOG_SECONDS, Phase, Process, Request
from tests.support.fakes import MemoryStore, Turns

#: More transitions and keys than a run has.
NO_LIMIT = 1_000_000


@implementer(IReactorTime)
class Machine(Turns):
    """
    The simulated machine, which is also the supervisor's reactor.

    The supervisor has neither sockets nor a first verification.

    @ivar report: the report that the workers read.
    @ivar pool: the workers, which SIGHUP replaces.
    @ivar tick: the number of the present event.
    @ivar trace: a line for everything that happened.
    @ivar disk: survives the processes.
    @ivar owner: the process that has the lock.
    @ivar backlog: requests that no worker has accepted.
    @ivar loss_rate: the share of notifications that are lost.
    @ivar suspicious_ends: how many processes ended in a way that a bad disk can cause.
    @ivar bugs: failures that must not happen.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.tick = 0
        self.trace: list[str] = []
        self.rng = rng
        self.disk = MemoryStore(journal=NO_LIMIT, kept_keys=NO_LIMIT)
        self.owner: Process | None = None
        self.processes: list[Process] = []
        self.backlog: list[Request] = []
        self.loss_rate = 0.0
        self.bugs: list[Failure] = []
        self.spawned = 0
        self.suspicious_ends = 0
        self.report = SupervisorReport(wanted_standby_count=1)
        setup = WorkerSetup(command=["worker"], watchdog=WATCHDOG_SECONDS, standby_count=1)
        self.pool = WorkerPool(
            cast(SupervisorReactor, self),
            Reporter(Notifier(), self.report, lambda _: None),
            setup=setup,
            spawn=self.spawn,
            reread_options=lambda _: setup,
            end_service=lambda status, reason: self.note(f"{status!r}: {reason}"),
        )

    def knows(self, process: Process) -> bool:
        """
        Return whether the supervisor knows the present state of C{process}.
        """
        state = process.worker.state
        return state.name == process.phase.name and process.worker.pid == process.pid

    def spawn(self, worker: SupervisedWorker) -> None:
        """
        Start a process of C{worker}.
        """
        # The process reads this number, and verifies the store if it has grown.
        assert self.report.suspicious_ends == self.suspicious_ends
        self.spawned += 1
        process = Process(self, worker, self.spawned)
        self.note(f"{process} begins")
        self.processes.append(process)
        # Two workers, one that replaces them, and one that did not start and will be
        # killed.
        assert len(self.processes) <= 4, "too many processes"

    def note(self, line: str) -> None:
        """
        Add C{line} to the trace.
        """
        self.trace.append(f"{self.tick:4} {self.seconds():8.3f} {line}")

    def ended(self, process: Process, *, suspicious: bool) -> None:
        """
        Remove a process that has ended.

        The batch that it was writing may or may not be on the disk.
        """
        if process.store.under_way is not None and self.rng.random() < 1 / 2:
            process.store.write()
        self.note(f"{process} ends, the disk is at {self.disk.cursor.revision}")
        self.processes.remove(process)
        self.suspicious_ends += suspicious
        if self.owner is process:
            self.owner = None

    def pass_lock(self) -> None:
        """
        If the lock is free, give it to a process that waits for it.
        """
        if self.owner is not None:
            return
        waiting = [
            process
            for process in self.processes
            if process.runs and process.phase is Phase.STANDBY
        ]
        if waiting:
            self.owner = self.rng.choice(waiting)
            self.note(f"{self.owner} owns the store")
            self.owner.store.give_lock()
