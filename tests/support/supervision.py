"""
The supervisor's decisions without sockets, on worker processes that a test controls.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

from attrs import define, evolve, field

from pexservice.process.exit_status import Status
from pexservice.process.sd_notify import ALIVE, READY, STANDBY, Notifier
from pexservice.process.supervisor_report import SupervisorReport
from pexservice.supervisor.reporter import Reporter
from pexservice.supervisor.supervised_worker import PIPES, SupervisorReactor
from pexservice.supervisor.worker_pool import WorkerPool
from pexservice.supervisor.worker_setup import WorkerSetup
from tests.support.processes import ProcessReactor, SpawnedProcess

WATCHDOG = 5.0


@define(eq=False)
class Supervised:
    """
    The workers of a supervisor, their processes and their reports.

    @ivar messages: the messages to the service manager.
    @ivar report: the newest report for the workers.
    @ivar reread_options: read the options again.
    @ivar service_ends: status and reason, each time that the service was ended.
    """

    standby: int = 1
    reactor: ProcessReactor = field(factory=ProcessReactor)
    messages: list[list[str]] = field(factory=list)
    service_ends: list[tuple[Status, str]] = field(factory=list)
    reread_options: Callable[[], WorkerSetup] = field(init=False)
    pool: WorkerPool = field(init=False)
    report: SupervisorReport = field(init=False)

    def __attrs_post_init__(self) -> None:
        setup = WorkerSetup(
            command=["worker"], watchdog=WATCHDOG, standby_count=self.standby
        )
        self.reread_options = lambda: evolve(self.pool.setup)
        reporter = Reporter(
            Notifier(lambda message: self.messages.append(message.decode().splitlines())),
            SupervisorReport(wanted_standby_count=self.standby),
            self._write_report,
        )
        self.pool = WorkerPool(
            cast(SupervisorReactor, self.reactor),
            reporter,
            setup=setup,
            spawn=lambda worker: self.reactor.spawnProcess(
                worker, worker.setup.command[0], worker.setup.command, {}, childFDs=PIPES
            ),
            # The test may replace the function.
            reread_options=lambda _: self.reread_options(),
            end_service=lambda status, reason: self.service_ends.append((status, reason)),
        )

    def _write_report(self, report: SupervisorReport) -> None:
        self.report = copy.deepcopy(report)

    @property
    def processes(self) -> list[SpawnedProcess]:
        """
        The running processes, the oldest first.
        """
        return [process for process in self.reactor.spawned if process.alive]

    def started(self) -> list[SpawnedProcess]:
        """
        Start the service, and make its workers ready.

        @return: the active process and the standbys.
        """
        self.pool.start()
        self.processes[0].notify(READY, "STATUS=serving")
        for _ in range(self.standby):
            self.reactor.turns(0.1)
            self.processes[-1].notify(STANDBY)
        return self.processes

    def pass_time(self, seconds: float) -> None:
        """
        Let time pass in which all processes send heartbeats.
        """
        for _ in range(round(2 * seconds)):
            self.reactor.turns(0.5)
            for process in self.processes:
                process.notify(ALIVE)
