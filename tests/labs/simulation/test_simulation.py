"""
Simulated runs with random faults.
"""

from __future__ import annotations

import pytest

from pexservice.commit.committer import Committer
from pexservice.commit.interface import Outcome, Waiter
from tests.labs.simulation.lab import FailedRun, Simulation, simulate

#: The first seeds; C{make simulate} tries more.
SEEDS = 1000


def test_every_simulated_run_is_linearizable_and_recovers() -> None:
    operations, unknown, processes = simulate(1, SEEDS)
    # There were enough faults.
    assert operations > 10 * SEEDS
    assert processes > 3 * SEEDS
    assert unknown > SEEDS


def test_simulation_finds_reads_of_states_that_are_not_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The negative control: some seed fails with its number, and fails again in the same way.
    """

    def read_latest(committer: Committer, waiter: Waiter) -> None:
        waiter.respond(Outcome.READ, committer._latest)

    monkeypatch.setattr(Committer, "read", read_latest)
    with pytest.raises(FailedRun, match=r"seed \d+: ") as caught:
        simulate(1, SEEDS)
    seed = int(str(caught.value).split()[1].rstrip(":"))
    with pytest.raises(FailedRun) as repeated:
        Simulation(seed).run()
    assert str(repeated.value) == str(caught.value)
