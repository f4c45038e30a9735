"""
One run, in the order that its seed chooses.
"""

from __future__ import annotations

import random
import signal
from typing import cast

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from pexservice.process.exit_status import Status
from pexservice.stores.errors import Refusal
from tests.labs.simulation.clients import CLIENTS, Clients
from tests.labs.simulation.disk import CrashableStore, DiskBroke
from tests.labs.simulation.machine import Machine
from tests.labs.simulation.process import Hang, Phase, Process
from tests.support.linearizability import faults

#: How many events a run has before the faults end.
EVENTS = 400

#: How long the service may take to recover when the faults have ended.  Seconds of
#: simulated time: a worker that hangs before its first word is waited for for 60.
RECOVERY = 120.0

#: How often each thing happens, and each fault if it is one of those of the run.
_EVENTS = {
    "ask": 20,
    "accept": 20,
    "turn": 30,
    "commit": 15,
    "deliver": 20,
    "pass_time": 8,
    "step_process": 15,
}
_FAULTS = {
    "kill": 2,
    "hang": 1,
    "resume": 1,
    "replace": 1,
    "refuse": 2,
    "break_disk": 1,
    "hang_up": 3,
    "repeat": 3,
    "fail_to_boot": 1,
}


class Wrong(AssertionError):
    """
    A run that must not be.  The message names the seed.
    """


class Simulation:
    """
    One simulated run.

    @ivar machine: has the trace.
    @ivar clients: have the records.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.choose = random.Random(seed)  # noqa: S311 nothing secret
        self.machine = Machine(self.choose)
        self.clients = Clients(self.machine)

    def run(self) -> None:
        """
        Run until the faults have ended and the service has recovered; judge the records.

        @raise Wrong: the run went as it must not.
        """
        globalLogPublisher.addObserver(cast(ILogObserver, self._logged))
        try:
            self._run()
        except Exception as error:
            self.machine.note(f"WRONG: {error}")
            raise Wrong(
                f"seed {self.seed}: {error}\n(python -m tests.labs.simulation.lab"
                f" {self.seed} prints what happened)"
            ) from error
        finally:
            globalLogPublisher.removeObserver(cast(ILogObserver, self._logged))

    def _logged(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and not failure.check(DiskBroke):
            self.machine.bugs.append(failure)

    def _run(self) -> None:
        choose, machine = self.choose, self.machine
        # Not every run has every fault: some are seen only where others are not.
        some = choose.sample(sorted(_FAULTS), choose.randrange(len(_FAULTS) + 1))
        weights = _EVENTS | {name: _FAULTS[name] for name in sorted(some)}
        machine.lossy = choose.choice([0.0, 0.0, 0.1])
        self.machine.note(
            f"seed {self.seed}, with {', '.join(sorted(some)) or 'no faults'}"
        )
        machine.supervisor.workers.start()
        names = [*weights]
        for name in choose.choices(names, [*weights.values()], k=EVENTS):
            machine.tick += 1
            getattr(self, f"_{name}")()
            machine.pass_lock()
            self._see_bugs()
        self._recover()
        self._judge()

    def _see_bugs(self) -> None:
        for failure in self.machine.bugs:
            raise AssertionError(failure.getTraceback())

    # What happens.

    def _ask(self) -> None:
        self.clients.ask()

    def _some(self, *phases: Phase) -> Process | None:
        """
        Return one of the processes that get on and are in C{phases}.
        """
        some = [
            process
            for process in self.machine.processes
            if process.runs and (not phases or process.phase in phases)
        ]
        return self.choose.choice(some) if some else None

    def _accept(self) -> None:
        process, backlog = self._some(Phase.ACTIVE, Phase.LEAVING), self.machine.backlog
        if process is not None and backlog:
            process.accept(backlog.pop(self.choose.randrange(len(backlog))))

    def _turn(self) -> None:
        process = self._some()
        if process is not None:
            process.turn()

    def _commit(self) -> None:
        """
        Have the commit under way get on: to the disk, or to its end.
        """
        owner = self.machine.owner
        if owner is None or owner.store.under_way is None:
            return
        if self.choose.random() < 1 / 2:
            owner.store.write()
        elif owner.runs:
            owner.store.finish()

    def _deliver(self) -> None:
        for process in self.machine.processes:
            if process.sent:
                index = self.choose.randrange(len(process.sent))
                request, answer = process.sent.pop(index)
                request.answered(answer)
                return

    def _pass_time(self) -> None:
        self.machine.turn(self.choose.choice([0.0001, 0.002, 0.02, 0.3, 1.0]))

    def _step_process(self) -> None:
        """
        Have a process take its signals, or get on with beginning or ending.
        """
        processes = [
            process for process in self.machine.processes if process.signals or process.runs
        ]
        if not processes:
            return
        process = self.choose.choice(processes)
        if process.signals:
            process.take_signals()
        elif process.phase is Phase.BOOTING:
            process.boot()
        elif process.phase is Phase.LEAVING:
            process.drain()

    # Faults.

    def _kill(self) -> None:
        process = self._some()
        if process is not None:
            self.machine.note(f"{process} is killed")
            process.end(signal=signal.SIGKILL)

    def _hang(self) -> None:
        process = self._some()
        if process is not None:
            process.hang = self.choose.choice([*Hang])
            self.machine.note(f"{process} is {process.hang.name.lower()}")

    def _resume(self) -> None:
        for process in self.machine.processes:
            if process.hang is not None:
                process.hang = None
                self.machine.note(f"{process} goes on")
                return

    def _replace(self) -> None:
        """
        Have all workers replaced, as by SIGHUP.
        """
        self.machine.note("the workers are to be replaced")
        self.machine.supervisor.workers.reload()

    def _refuse(self) -> None:
        """
        Have the store refuse the batch under way.
        """
        store = self._writing()
        if store is not None and not store.written:
            self.machine.note("a batch is refused")
            store.finish(Refusal("full"))

    def _break_disk(self) -> None:
        """
        Fail the commit in progress, in whatever phase it is.
        """
        store = self._writing()
        if store is not None:
            self.machine.note(f"the disk breaks, at {self.machine.disk.cursor.revision}")
            store.broke = True
            store.finish(DiskBroke("Input/output error"))

    def _writing(self) -> CrashableStore | None:
        owner = self.machine.owner
        if owner is None or not owner.runs or owner.store.under_way is None:
            return None
        return owner.store

    def _hang_up(self) -> None:
        process = self._some(Phase.ACTIVE, Phase.LEAVING, Phase.DRAINING)
        if process is not None and process.requests:
            process.hang_up(self.choose.choice(process.requests))

    def _repeat(self) -> None:
        self.clients.repeat()

    def _fail_to_boot(self) -> None:
        process = self._some(Phase.BOOTING)
        if process is not None:
            self.machine.note(f"{process} cannot start")
            process.end(status=Status.CANNOT_START)

    # The end.

    def _recover(self) -> None:
        """
        Let everything get on without faults, until all is well.
        """
        self.machine.note("the faults end")
        machine = self.machine
        machine.lossy = 0.0
        end = machine.seconds() + RECOVERY
        while not self._is_well():
            assert machine.seconds() < end, f"no recovery, {self._state()}"
            machine.tick += 1
            machine.turn(0.25)
            for _ in range(3):
                for process in [*machine.processes]:
                    if process.alive and (process.signals or process.runs):
                        self._get_on(process)
            machine.pass_lock()
            for _ in range(CLIENTS):
                self._accept()
                self._deliver()
            self._see_bugs()

    def _get_on(self, process: Process) -> None:
        if process.signals:
            process.take_signals()
        elif process.phase is Phase.BOOTING:
            process.boot()
        elif process.phase is Phase.LEAVING:
            process.drain()
        if not process.runs:
            return
        process.turn()
        store = process.store
        if store.under_way is not None:
            store.finish()

    def _is_well(self) -> bool:
        """
        Return whether all is well again.

        Then every client has its answer, one worker serves, one stands by, and the
        supervisor knows which and has nothing in hand.
        """
        machine = self.machine
        phases = sorted(process.phase.name for process in machine.processes)
        return (
            not self.clients.waiting
            and not machine.backlog
            and not machine.supervisor.workers.reloading
            and phases == ["ACTIVE", "STANDBY"]
            and all(process.runs for process in machine.processes)
            and all(machine.supervisor.knows(process) for process in machine.processes)
        )

    def _state(self) -> str:
        machine = self.machine
        descriptions = [
            f"{process} is {process.phase.name}" for process in machine.processes
        ]
        if machine.supervisor.workers.reloading:
            descriptions.append("the workers are being replaced")
        return ", ".join([*descriptions, f"{self.clients.waiting} clients wait"])

    def _judge(self) -> None:
        disk = self.machine.disk
        found_faults = faults(self.clients.records, [row.transition for row in disk.rows])
        assert not found_faults, "; ".join(found_faults[:5])
