"""
Hostile clients in the short form: each attack on each kind of listener.
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
    Return the parameters of the tests of these attacks on C{listener}.
    """
    return [(name, listener) for name in names if listener in KINDS[name].listeners]


@pytest.mark.parametrize(
    ("name", "listener"), [*cases(KINDS, "plain"), *cases(KINDS, "TLS")]
)
def test_attack_excludes_no_other_client_and_does_no_damage(
    tmp_path: Path, name: str, listener: str
) -> None:
    """
    An honest client is served by the same workers meanwhile, and no error is logged.
    """
    kind = KINDS[name]
    kind.run(tmp_path, listener, kind.short)
