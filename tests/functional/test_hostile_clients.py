"""
Hostile clients, and an honest client that must be served meanwhile.

L{tests.labs.attacks.test_hostile} tries more kinds of attack, and all of them over TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.attacks.hostile import KINDS, NO_LIMIT, Target, target_for_attacks

#: The kinds of attack that take only a few seconds and need no rate limit.
_QUICK = [
    name
    for name, kind in KINDS.items()
    if "plain" in kind.listeners
    and kind.options == NO_LIMIT
    and not name.startswith("1,000 ")
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """
    Provide one service for all attacks in L{_QUICK}.
    """
    with target_for_attacks(tmp_path_factory.mktemp("target"), "plain") as target:
        yield target


@pytest.mark.parametrize("name", _QUICK)
def test_attack_keeps_nobody_out(target: Target, name: str) -> None:
    """
    The same worker serves an honest client meanwhile, and logs no error.
    """
    KINDS[name].attack(target, KINDS[name].short)


@pytest.mark.parametrize(
    ("name", "listener"), [("reset with a forged address", "plain"), ("KeyUpdates", "TLS")]
)
def test_attack_on_a_rate_limit_or_tls_keeps_nobody_out(
    tmp_path: Path, name: str, listener: str
) -> None:
    KINDS[name].run(tmp_path, listener, KINDS[name].short)
