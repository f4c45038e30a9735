"""
Clients that reset, forge, flood and hog, and an honest client next to them.

The tests in L{tests.labs.attacks.test_hostile} try more kinds, on more listeners.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.hostile import KINDS
from tests.labs.attacks.test_hostile import cases

#: The kinds that take few seconds.
_QUICK = [name for name in KINDS if not name.startswith("1,000 ")]


@pytest.mark.parametrize(
    ("name", "listener"), [*cases(_QUICK, "plain"), *cases(["KeyUpdates"], "TLS")]
)
def test_attack_keeps_nobody_out_and_breaks_nothing(
    tmp_path: Path, name: str, listener: str
) -> None:
    """
    An honest client is served meanwhile, by the same workers, and nothing is logged.
    """
    kind = KINDS[name]
    kind.run(tmp_path, listener, kind.short)
