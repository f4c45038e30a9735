"""
Attacks in the short form: the whole table once, and a sample of it in pieces.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from tests.labs.attacks.attacking import Front
from tests.labs.attacks.lab import (
    COMPLETE,
    INCOMPLETE,
    TABLE,
    fronts,
    record_attacks,
    try_in_pieces,
    try_incomplete,
)

pytestmark = pytest.mark.once

#: How many attacks of the table are cut into pieces.
SAMPLE = 100


@pytest.fixture(scope="module")
def fronts_by_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Front]]:
    with fronts(tmp_path_factory.mktemp("attacks")) as fronts_by_name:
        yield fronts_by_name


NAMES = ("supervised", "worker", "nginx")


def test_each_attack_has_its_own_name_and_a_rule() -> None:
    assert len(TABLE) >= 150
    assert len({attack.name for attack in TABLE}) == len(TABLE)
    assert all(attack.rule for attack in TABLE)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_every_attack_gets_a_status_or_a_close_and_no_5xx(
    fronts_by_name: Mapping[str, Front], name: str
) -> None:
    """
    A refused request makes no step, and the bytes after it are not executed.
    """
    failures = fronts_by_name[name].try_all(COMPLETE)
    assert not failures, "\n".join(failures)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks_get_the_same_response_however_the_network_splits_them(
    fronts_by_name: Mapping[str, Front], name: str
) -> None:
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    print("seed", seed)
    sample = random.Random(seed).sample(COMPLETE, SAMPLE)  # noqa: S311 nothing secret
    failures = try_in_pieces(fronts_by_name[name], sample, seed)
    assert not failures, "\n".join([f"seed {seed}", *failures])


@pytest.mark.needs("nginx")
def test_unfinished_request_gets_408_when_its_time_is_over(
    fronts_by_name: Mapping[str, Front],
) -> None:
    failures = try_incomplete([*fronts_by_name.values()])
    assert not failures, "\n".join(failures)
    record_attacks(len(fronts_by_name) * (len(COMPLETE) + SAMPLE + len(INCOMPLETE)))
