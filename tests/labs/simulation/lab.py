"""
Everything that can happen to clients, a disk and a supervised service, in a random order.

A run has a few hundred events.  Clients make reads, steps, repetitions and steps with a
precondition, and close connections.  Commits are slow, are refused, or fail with or without
the batch on the disk.  Processes are killed at any moment, hang, fail to start, and are
replaced.  Then the faults end: the service must recover, every client must get a result,
and the records of all clients must be linearizable (see L{tests.support.linearizability}).

A seed always gives the same run: C{python -m tests.labs.simulation.lab SEED} prints its
trace, and C{python -m tests.labs.simulation.lab FIRST LAST} tries many seeds.
"""

from __future__ import annotations

import math
import random
import signal
import sys
import time
from functools import partial
from typing import cast

from attrs import Factory, define
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from pexservice.commit.interface import KeyReused, Outcome, Step
from pexservice.core.cursor import State, Transition
from pexservice.process.exit_status import Status
from pexservice.stores.errors import OutcomeUnknown, Refusal
from tests.labs.simulation.machine import (
    CrashableStore,
    DiskError,
    Hang,
    Machine,
    Phase,
    Process,
    Request,
    Result,
)
from tests.support.evidence import record
from tests.support.linearizability import Record, require_linearizable
from tests.support.steps import Response

CLIENTS = 5


@define(eq=False)
class Client:
    """
    A client that makes one operation at a time.

    @ivar pending: the operation that it waits for.
    @ivar last: the revision in its last response.
    @ivar first_uses: by key, the first operation with this key.
    """

    number: int
    pending: PendingOperation | None = None
    last: int = 0
    keys: int = 0
    first_uses: dict[bytes | None, PendingOperation] = Factory(dict)


@define(eq=False)
class PendingOperation:
    """
    One operation of one client, which may be sent several times.

    @ivar open_requests: how many of its requests have no result yet.
    @ivar may_be_stored: one of the requests had an unknown outcome.
    @ivar is_finished: the client waits for it no longer.
    @ivar first_use: the earlier operation that used its key, as far as the client knows.
    @ivar is_applied: one response was not a replay; only one may be.
    @ivar seen: the revision and the position in the first response.
    """

    client: Client
    operation: Transition | None
    called: int
    step: Step | None
    key: bytes | None
    first_use: PendingOperation | None
    open_requests: int = 0
    may_be_stored: bool = False
    is_finished: bool = False
    is_applied: bool = False
    seen: tuple[int, int] | None = None


class Clients:
    """
    All clients of a run.

    @ivar records: what they recorded.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rng = machine.rng
        self.records: list[Record] = []
        self.clients = [Client(number) for number in range(CLIENTS)]
        self.requests = 0

    @property
    def waiting(self) -> int:
        """
        Return how many clients wait for a result.
        """
        return sum(client.pending is not None for client in self.clients)

    def ask(self) -> None:
        """
        Let a client that waits for nothing begin an operation.
        """
        rng = self.rng
        client = rng.choice(self.clients)
        if client.pending is not None:
            return
        operation = rng.choice([None, *Transition, Transition.NEXT])
        step, key, precondition = None, None, None
        if operation is not None:
            kind = rng.randrange(6)
            if kind < 3:
                client.keys += 1
                key = b"%d-%d" % (client.number, client.keys)
            elif kind == 3 and client.first_uses:
                key = rng.choice([*client.first_uses])
            elif kind == 4:
                precondition = partial(_is_at, client.last)
            step = Step(operation, key, precondition)
        client.pending = PendingOperation(
            client, operation, self.machine.tick, step, key, client.first_uses.get(key)
        )
        request = "current" if operation is None else operation.word
        request += "" if key is None else f", key {key.decode()}"
        request += "" if precondition is None else f", at {client.last}"
        self.machine.note(f"client {client.number} asks for {request}")
        self._send(client.pending)

    def _send(self, pending: PendingOperation) -> None:
        self.requests += 1
        pending.open_requests += 1
        deliver = partial(self._deliver_result, pending)
        variant = self.rng.randrange(2)
        self.machine.backlog.append(Request(self.requests, pending.step, deliver, variant))

    def _deliver_result(self, pending: PendingOperation, result: Result) -> None:
        """
        Give a client the result of a request; C{None} means that the connection broke.
        """
        self.machine.note(f"client {pending.client.number} gets {result!r}")
        pending.open_requests -= 1
        if isinstance(result, Response):
            if result.outcome is not Outcome.PRECONDITION_FAILED:
                self._succeeded(pending, result)
            elif not pending.is_finished:
                # A client whose precondition failed has read the cursor.
                self._end(pending, None, result.state.cursor)
        elif pending.is_finished:
            return
        elif isinstance(result, tuple):
            self._end(pending, None, result)
        elif isinstance(result, KeyReused):
            first = pending.first_use
            assert first is not None
            assert first.operation is result.used is not pending.operation
            self._end(pending, pending.operation)
        elif pending.operation is None:
            # A failed read has seen nothing.
            self._end(pending, None, unknown=True)
        else:
            self._failed(pending, result)

    def _failed(self, pending: PendingOperation, result: Result) -> None:
        assert result is None or isinstance(result, (Refusal, OutcomeUnknown)), result
        pending.may_be_stored |= not isinstance(result, Refusal)
        if pending.key is not None and self.rng.random() < 0.8:
            self._send(pending)
        else:
            unknown = pending.may_be_stored or pending.open_requests > 0
            self._end(pending, pending.operation, unknown=unknown)

    def _succeeded(self, pending: PendingOperation, response: Response) -> None:
        seen = response.state.cursor
        first = pending.client.first_uses.get(pending.key)
        if response.outcome is Outcome.APPLIED:
            assert not pending.is_applied, f"{pending.key!r} made two steps"
            assert pending.first_use is None, f"{pending.key!r} made another step"
            pending.is_applied = True
        if first is not None:
            assert first.operation is pending.operation, f"{pending.key!r} for another step"
            assert first.seen == seen, f"{pending.key!r} replayed another step"
        if pending.is_finished:
            return
        if pending.key is not None and first is None:
            pending.seen = seen
            pending.client.first_uses[pending.key] = pending
        self._end(pending, pending.operation, seen)

    def _end(
        self,
        pending: PendingOperation,
        operation: Transition | None,
        seen: tuple[int, int] | None = None,
        *,
        unknown: bool = False,
    ) -> None:
        """
        Record a response, a refusal if there is no C{seen}, or an unknown outcome.
        """
        client = pending.client
        client.pending = None
        pending.is_finished = True
        if seen is not None:
            client.last = seen[0]
        # A step that was made before has its record already.
        if pending.first_use is None:
            self.records.append(
                Record(
                    client=client.number,
                    operation=operation,
                    called=pending.called,
                    returned=math.inf if unknown else self.machine.tick,
                    seen=seen,
                    refused=seen is None and not unknown,
                )
            )

    def repeat(self) -> None:
        """
        Let a client send its request again while it waits.
        """
        client = self.rng.choice(self.clients)
        if client.pending is not None and client.pending.key is not None:
            self.machine.note(f"client {client.number} repeats")
            self._send(client.pending)


def _is_at(revision: int, state: State) -> bool:
    return state.revision == revision


#: How many events a run has before the faults end.
EVENT_COUNT = 400

#: How long the service may take to recover after the faults, in simulated seconds.  The
#: supervisor waits 60 seconds for the first message of a worker that hangs.
MAX_RECOVERY_SECONDS = 120.0

#: How often each event happens, and how often each fault if the run has it.
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


class FailedRun(AssertionError):
    """
    A run that failed a check.  The message has the seed.
    """


class Simulation:
    """
    One simulated run.

    @ivar machine: has the trace.
    @ivar clients: have the records.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 nothing secret
        self.machine = Machine(self.rng)
        self.clients = Clients(self.machine)

    def run(self) -> None:
        """
        Run until the service has recovered after the faults, and check the records.

        @raise FailedRun: a check failed.
        """
        globalLogPublisher.addObserver(cast(ILogObserver, self._logged))
        try:
            self._run()
        except Exception as error:
            self.machine.note(f"WRONG: {error}")
            raise FailedRun(
                f"seed {self.seed}: {error}\n(python -m tests.labs.simulation.lab"
                f" {self.seed} prints the trace)"
            ) from error
        finally:
            globalLogPublisher.removeObserver(cast(ILogObserver, self._logged))

    def _logged(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and not failure.check(DiskError):
            self.machine.bugs.append(failure)

    def _run(self) -> None:
        rng, machine = self.rng, self.machine
        # A run has only some of the faults, because some bugs show only without the others.
        fault_names = rng.sample(sorted(_FAULTS), rng.randrange(len(_FAULTS) + 1))
        weights = _EVENTS | {name: _FAULTS[name] for name in sorted(fault_names)}
        machine.loss_rate = rng.choice([0.0, 0.0, 0.1])
        self.machine.note(
            f"seed {self.seed}, with {', '.join(sorted(fault_names)) or 'no faults'}"
        )
        machine.pool.start()
        names = [*weights]
        for name in rng.choices(names, [*weights.values()], k=EVENT_COUNT):
            machine.tick += 1
            owner = self.clients if name in ("ask", "repeat") else self
            getattr(owner, name)()
            machine.pass_lock()
            self._raise_bugs()
        self._recover()
        journal = [row.transition for row in machine.disk.rows]
        require_linearizable(self.clients.records, journal)

    def _raise_bugs(self) -> None:
        for failure in self.machine.bugs:
            raise AssertionError(failure.getTraceback())

    # Events.

    def _choose_process(self, *phases: Phase) -> Process | None:
        """
        Return one of the running processes in C{phases}, or in any phase.
        """
        processes = [
            process
            for process in self.machine.processes
            if process.runs and (not phases or process.phase in phases)
        ]
        return self.rng.choice(processes) if processes else None

    def accept(self) -> None:
        process = self._choose_process(Phase.ACTIVE, Phase.LEAVING)
        backlog = self.machine.backlog
        if process is not None and backlog:
            process.accept(backlog.pop(self.rng.randrange(len(backlog))))

    def turn(self) -> None:
        process = self._choose_process()
        if process is not None:
            process.turn()

    def commit(self) -> None:
        """
        Continue the commit in progress: write the batch to the disk, or end the commit.
        """
        owner = self.machine.owner
        if owner is None or owner.store.under_way is None:
            return
        if self.rng.random() < 1 / 2:
            owner.store.write()
        elif owner.runs:
            owner.store.finish()

    def deliver(self) -> None:
        for process in self.machine.processes:
            if process.pending_results:
                index = self.rng.randrange(len(process.pending_results))
                request, result = process.pending_results.pop(index)
                request.deliver(result)
                return

    def pass_time(self) -> None:
        self.machine.turn(self.rng.choice([0.0001, 0.002, 0.02, 0.3, 1.0]))

    def step_process(self) -> None:
        """
        Let a process handle its signals, or continue its start or its end.
        """
        processes = [
            process for process in self.machine.processes if process.signals or process.runs
        ]
        if not processes:
            return
        self.rng.choice(processes).step()

    # Faults.

    def kill(self) -> None:
        process = self._choose_process()
        if process is not None:
            self.machine.note(f"{process} is killed")
            process.end(signal=signal.SIGKILL)

    def hang(self) -> None:
        process = self._choose_process()
        if process is not None:
            process.hang = self.rng.choice([*Hang])
            self.machine.note(f"{process} is {process.hang.name.lower()}")

    def resume(self) -> None:
        for process in self.machine.processes:
            if process.hang is not None:
                process.hang = None
                self.machine.note(f"{process} continues")
                return

    def replace(self) -> None:
        """
        Replace all workers, as SIGHUP does.
        """
        self.machine.note("SIGHUP")
        self.machine.pool.reload()

    def refuse(self) -> None:
        """
        Let the store refuse the batch in progress.
        """
        store = self._writing()
        if store is not None and not store.is_written:
            self.machine.note("a batch is refused")
            store.finish(Refusal("full"))

    def break_disk(self) -> None:
        """
        Let the commit in progress fail.
        """
        store = self._writing()
        if store is not None:
            self.machine.note(f"the disk breaks, at {self.machine.disk.cursor.revision}")
            store.is_broken = True
            store.finish(DiskError("Input/output error"))

    def _writing(self) -> CrashableStore | None:
        owner = self.machine.owner
        if owner is None or not owner.runs or owner.store.under_way is None:
            return None
        return owner.store

    def hang_up(self) -> None:
        process = self._choose_process(Phase.ACTIVE, Phase.LEAVING, Phase.DRAINING)
        if process is not None and process.requests:
            process.hang_up(self.rng.choice(process.requests))

    def fail_to_boot(self) -> None:
        process = self._choose_process(Phase.BOOTING)
        if process is not None:
            self.machine.note(f"{process} cannot start")
            process.end(status=Status.CANNOT_START)

    # The end of a run.

    def _recover(self) -> None:
        """
        Let everything run without faults until the service has recovered.
        """
        self.machine.note("the faults end")
        machine = self.machine
        machine.loss_rate = 0.0
        end = machine.seconds() + MAX_RECOVERY_SECONDS
        while not self._has_recovered():
            assert machine.seconds() < end, f"{self.clients.waiting} clients still wait"
            machine.tick += 1
            machine.turn(0.25)
            for _ in range(3):
                for process in [*machine.processes]:
                    if process.alive and (process.signals or process.runs):
                        self._run_process(process)
            machine.pass_lock()
            for _ in range(CLIENTS):
                self.accept()
                self.deliver()
            self._raise_bugs()

    def _run_process(self, process: Process) -> None:
        process.step()
        if process.runs:
            process.turn()
            if process.store.under_way is not None:
                process.store.finish()

    def _has_recovered(self) -> bool:
        """
        Return whether the service has recovered.

        Then every client has its result, there are one active worker and one standby, and
        the supervisor knows them and has nothing left to do.
        """
        machine = self.machine
        phases = sorted(process.phase.name for process in machine.processes)
        return (
            not self.clients.waiting
            and not machine.backlog
            and not machine.pool.is_reloading
            and phases == ["ACTIVE", "STANDBY"]
            and all(process.runs for process in machine.processes)
            and all(machine.knows(process) for process in machine.processes)
        )


def simulate(first: int, last: int) -> tuple[int, int, int]:
    """
    Run the seeds from C{first} to C{last}.

    @return: the numbers of operations, of unknown outcomes and of processes.

    @raise FailedRun: a run failed a check.
    """
    operations = unknown = processes = 0
    for seed in range(first, last + 1):
        simulation = Simulation(seed)
        simulation.run()
        records = simulation.clients.records
        operations += len(records)
        unknown += sum(not (record.seen or record.refused) for record in records)
        processes += simulation.machine.spawned
    record(
        "simulation",
        promise="Under any order of failures, no acknowledged step is undone, no key"
        " makes its step twice, and the service recovers by itself.",
        size=last - first + 1,
        unit="simulated runs",
        result=f"{operations:,} operations on {processes:,} processes that were"
        f" killed, hung or replaced, {unknown:,} outcomes unknown: every record is"
        " linearizable, every run recovered",
        command="make simulate",
    )
    return operations, unknown, processes


def main() -> None:
    """
    Print the trace of one seed, or try many seeds.
    """
    first, *rest = map(int, sys.argv[1:])
    if not rest:
        simulation = Simulation(first)
        try:
            simulation.run()
        finally:
            print("\n".join(simulation.machine.trace))
        return
    began = time.monotonic()
    print(simulate(first, rest[0]), f"{time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
