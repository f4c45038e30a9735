"""
The short form: damage to every page of a store.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.labs.damage.lab import Outcome, damage_stores, try_damages
from tests.support.forms import amount

#: How many damages are tried; C{make damage} tries 10,000.
COUNT = amount(short=400, long=1000)

#: How many damages the negative control tries.
CONTROL_COUNT = 200


def test_no_damaged_store_is_accepted_with_another_state() -> None:
    """
    Without a witness, an accepted store may have the state before the last commit.
    """
    outcomes = damage_stores(COUNT)
    print(outcomes)
    # Both outcomes were frequent.
    assert outcomes[Outcome.REFUSED] > COUNT / 4
    assert outcomes[Outcome.HARMLESS] > COUNT / 10


@pytest.mark.parametrize("seed", [3212, 3213])
def test_damage_that_was_once_accepted_is_refused(seed: int) -> None:
    """
    These damages restore an older version of the newest row of keys.
    """
    (trial,) = try_damages(seed, 1)
    assert trial.is_good, trial


def test_damage_is_accepted_when_the_checks_are_switched_off() -> None:
    """
    The negative control: damages of several kinds are accepted and have another state.
    """
    bad = [
        trial for trial in try_damages(0, CONTROL_COUNT, checks=False) if not trial.is_good
    ]
    accepted = [trial for trial in bad if trial.outcome is not Outcome.BROKEN]
    print(Counter((trial.name, trial.outcome.name) for trial in bad))
    assert len(accepted) > 1
    assert len({trial.name for trial in accepted}) > 1
