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
    fronts,
    record_attacks,
    try_in_pieces,
    try_incomplete,
)

pytestmark = [pytest.mark.needs("nginx"), pytest.mark.once]

#: How many attacks of the table are cut into pieces.
SAMPLE = 100


@pytest.fixture(scope="module")
def fronts_by_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Front]]:
    with fronts(tmp_path_factory.mktemp("attacks")) as fronts_by_name:
        yield fronts_by_name


@pytest.fixture(params=["supervised", "worker", "nginx"])
def front(request: pytest.FixtureRequest, fronts_by_name: Mapping[str, Front]) -> Front:
    return fronts_by_name[request.param]


def test_every_attack_gets_a_status_or_a_close_and_no_5xx(front: Front) -> None:
    """
    A refused request makes no step, and the bytes after it are not executed.
    """
    failures = front.try_all(COMPLETE)
    assert not failures, "\n".join(failures)


def test_attacks_get_the_same_response_however_the_network_splits_them(
    front: Front,
) -> None:
    seed = random.randrange(2**32)  # noqa: S311 nothing secret
    sample = random.Random(seed).sample(COMPLETE, SAMPLE)  # noqa: S311 nothing secret
    failures = try_in_pieces(front, sample, seed)
    assert not failures, "\n".join([f"seed {seed}", *failures])


def test_unfinished_request_gets_408_when_its_time_is_over(
    fronts_by_name: Mapping[str, Front],
) -> None:
    failures = try_incomplete([*fronts_by_name.values()])
    assert not failures, "\n".join(failures)
    record_attacks(len(fronts_by_name) * (len(COMPLETE) + SAMPLE + len(INCOMPLETE)))
