"""
Simulated runs, whatever happens, in whatever order.
"""

from __future__ import annotations

import pytest

from pexservice.commit.committer import Committer
from pexservice.commit.interface import Outcome, Waiter
from tests.labs.simulation.lab import Result, simulate
from tests.labs.simulation.run import Simulation, Wrong

#: The first seeds; C{make simulate} tries more.
SEEDS = 1000


def trace_of(seed: int) -> list[str]:
    """
    Return the trace of a seed's run.
    """
    simulation = Simulation(seed)
    simulation.run()
    return simulation.machine.trace


def test_every_simulated_run_is_linearizable_and_recovers() -> None:
    result = simulate(1, SEEDS)
    print(result)
    assert isinstance(result, Result)
    # There was enough to go wrong.
    assert result.operations > 10 * SEEDS
    assert result.processes > 3 * SEEDS
    assert result.unknown > SEEDS


@pytest.mark.parametrize("seed", range(1, 20))
def test_same_seed_makes_the_same_run(seed: int) -> None:
    """
    So a fault that was found is found again.
    """
    assert trace_of(seed) == trace_of(seed)


def test_simulation_finds_reads_of_states_that_are_not_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The control: some seed fails, names itself, and fails again.
    """

    def read_latest(committer: Committer, waiter: Waiter) -> None:
        waiter.respond(Outcome.READ, committer._latest)

    monkeypatch.setattr(Committer, "read", read_latest)
    with pytest.raises(Wrong, match=r"seed \d+: ") as caught:
        simulate(1, SEEDS)
    seed = int(str(caught.value).split()[1].rstrip(":"))
    with pytest.raises(Wrong) as again:
        Simulation(seed).run()
    assert str(again.value) == str(caught.value)
