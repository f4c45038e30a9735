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

#: How many of the table are cut in pieces.
SAMPLE = 100


@pytest.fixture(scope="module")
def them(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Front]]:
    """
    Whom to attack.
    """
    with fronts(tmp_path_factory.mktemp("attacks")) as them:
        yield them


NAMES = ("supervised", "worker", "nginx")


def test_the_table() -> None:
    """
    It is one: each attack has a name of its own, and a rule.
    """
    assert len(TABLE) >= 150
    assert len({each.name for each in TABLE}) == len(TABLE)
    assert all(each.rule for each in TABLE)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks(them: Mapping[str, Front], name: str) -> None:
    """
    A status or a close, no 5xx; what is refused moves nothing, and nothing behind it
    is executed.  Through nginx, what comes back tells of all that was done, once.
    """
    wrong = them[name].try_all(PROMPT)
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("name", NAMES)
def test_attacks_in_pieces(them: Mapping[str, Front], name: str) -> None:
    """
    However the network cuts them.
    """
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    print("seed", seed)
    sample = random.Random(seed).sample(PROMPT, SAMPLE)  # noqa: S311 nothing secret
    wrong = try_cut(them[name], sample, seed)
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


@pytest.mark.needs("nginx")
def test_unfinished(them: Mapping[str, Front]) -> None:
    """
    Who stops within a request is told so when its time is over.
    """
    wrong = wait_all([*them.values()])
    assert not wrong, "\n".join(wrong)
    keep(len(them) * (len(PROMPT) + SAMPLE + len(PATIENT)))
