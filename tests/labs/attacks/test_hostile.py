"""
Hostile clients, in small: each kind on each listener.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.labs.attacks.hostile import KINDS

pytestmark = pytest.mark.once


def cases(names: Iterable[str], listener: str) -> list[Any]:
    """
    Return the parameters of tests of these kinds on C{listener}.
    """
    return [(name, listener) for name in names if listener in KINDS[name].listeners]


@pytest.mark.parametrize(
    ("name", "listener"), [*cases(KINDS, "plain"), *cases(KINDS, "TLS")]
)
def test_attack_keeps_nobody_out_and_breaks_nothing(
    tmp_path: Path, name: str, listener: str
) -> None:
    """
    An honest client is served meanwhile, by the same workers, and nothing is logged.
    """
    kind = KINDS[name]
    kind.run(tmp_path, listener, kind.short)
