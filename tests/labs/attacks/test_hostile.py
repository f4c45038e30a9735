"""
Hostile clients in the short form: each attack on each kind of listener.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.hostile import KINDS, LONGER_KINDS

pytestmark = pytest.mark.once


ALL_KINDS = KINDS | LONGER_KINDS
CASES = [
    pytest.param(
        *(name, listener),
        marks=pytest.mark.needs("slowhttptest") if name.startswith("slow ") else (),
    )
    for name, kind in ALL_KINDS.items()
    for listener in kind.listeners
]


@pytest.mark.parametrize(("name", "listener"), CASES)
def test_attack_excludes_no_other_client_and_does_no_damage(
    tmp_path: Path, name: str, listener: str
) -> None:
    """
    An honest client is served by the same workers meanwhile, and no error is logged.
    """
    kind = ALL_KINDS[name]
    kind.run(tmp_path, listener, kind.short)
