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

import sys
import time

from tests.labs.simulation.run import Simulation
from tests.support.evidence import record


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
