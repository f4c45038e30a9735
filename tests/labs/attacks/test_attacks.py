"""
HTTP under attack, in small: the whole table once, a sample of it in pieces.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from tests.labs.attacks.attacking import Front
from tests.labs.attacks.lab import (
    PATIENT,
    PROMPT,
    TABLE,
    fronts,
    keep,
    try_cut,
    wait_all,
)

pytestmark = pytest.mark.once

#: How many attacks of the table are cut in pieces.
SAMPLE = 100


@pytest.fixture(scope="module")
def them(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Front]]:
    """
    Provide the fronts to attack, by name.
    """
    with fronts(tmp_path_factory.mktemp("attacks")) as them:
        yield them


NAMES = ("supervised", "worker", "nginx")


def test_each_attack_has_its_own_name_and_a_rule() -> None:
    assert len(TABLE) >= 150
    assert len({attack.name for attack in TABLE}) == len(TABLE)
    assert all(attack.rule for attack in TABLE)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_every_attack_gets_a_status_or_a_close_and_no_5xx(
    them: Mapping[str, Front], name: str
) -> None:
    """
    A refused request moves nothing, and the bytes behind it are not executed.

    Through nginx, the responses report every step once.
    """
    wrong = them[name].try_all(PROMPT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks_get_the_same_response_however_the_network_splits_them(
    them: Mapping[str, Front], name: str
) -> None:
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    print("seed", seed)
    sample = random.Random(seed).sample(PROMPT, SAMPLE)  # noqa: S311 nothing secret
    wrong = try_cut(them[name], sample, seed)
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


@pytest.mark.needs("nginx")
def test_unfinished_request_gets_408_when_its_time_is_over(
    them: Mapping[str, Front],
) -> None:
    wrong = wait_all([*them.values()])
    assert not wrong, "\n".join(wrong)
    keep(len(them) * (len(PROMPT) + SAMPLE + len(PATIENT)))
