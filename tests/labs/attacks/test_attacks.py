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


def test_the_table() -> None:
    """
    Each attack in the table has a name of its own, and a rule.
    """
    assert len(TABLE) >= 150
    assert len({each.name for each in TABLE}) == len(TABLE)
    assert all(each.rule for each in TABLE)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks(them: Mapping[str, Front], name: str) -> None:
    """
    Every attack gets a status or a close and no 5xx.

    A refused request moves nothing, and nothing behind it is executed.  Through nginx, the
    answers tell of all that was done, once.
    """
    wrong = them[name].try_all(PROMPT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks_in_pieces(them: Mapping[str, Front], name: str) -> None:
    """
    Attacks are answered alike, however the network cuts them.
    """
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    print("seed", seed)
    sample = random.Random(seed).sample(PROMPT, SAMPLE)  # noqa: S311 nothing secret
    wrong = try_cut(them[name], sample, seed)
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


@pytest.mark.needs("nginx")
def test_unfinished(them: Mapping[str, Front]) -> None:
    """
    A client that stops within a request is told so when its time is over.
    """
    wrong = wait_all([*them.values()])
    assert not wrong, "\n".join(wrong)
    keep(len(them) * (len(PROMPT) + SAMPLE + len(PATIENT)))
