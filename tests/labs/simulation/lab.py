"""
Everything that can happen to a few clients, a disk and a supervised service.

It happens in an order that a seed chooses.

A run is a few hundred events.  Clients step, look, repeat, step on a condition, hang
up.  Commits are slow, are refused, or fail with the batch on the disk or without.
Processes are killed at any point, hang, do not come up, are replaced.  After that the
faults end; then the service must recover, every client must be answered, and the
record of all clients must be one that a single cursor can have made (see
L{tests.support.linearizability}).

The same seed is the same run, event by event: C{python -m tests.labs.simulation.lab SEED}
prints it, C{python -m tests.labs.simulation.lab FIRST LAST} tries many.
"""

from __future__ import annotations

import sys
import time

from attrs import frozen

from tests.labs.simulation.run import Simulation
from tests.support.evidence import Evidence, record


@frozen
class Result:
    """
    The figures of all runs.

    @ivar unknown: of the operations, those with an unknown outcome.
    """

    seeds: int
    operations: int
    unknown: int
    processes: int


def simulate(first: int, last: int) -> Result:
    """
    Run the seeds from C{first} to C{last}.

    @raise Wrong: a run went as it must not.
    """
    operations = unknown = processes = 0
    for seed in range(first, last + 1):
        simulation = Simulation(seed)
        simulation.run()
        records = simulation.clients.records
        operations += len(records)
        unknown += sum(not (record.seen or record.refused) for record in records)
        processes += simulation.machine.spawned
    result = Result(last - first + 1, operations, unknown, processes)
    record(
        Evidence(
            name="simulation",
            promise="Under any order of failures, no acknowledged step is undone, no key"
            " makes its step twice, and the service recovers by itself.",
            size=result.seeds,
            unit="simulated runs",
            result=f"{operations:,} operations on {processes:,} processes that were"
            f" killed, hung or replaced, {unknown:,} outcomes unknown: every record is"
            " linearizable, every run recovered",
            command="make simulate",
        )
    )
    return result


def main() -> None:
    """
    Print one seed's trace, or try many seeds.
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
