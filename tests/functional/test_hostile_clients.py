"""
Hostile clients, and an honest client that must be served meanwhile.

L{tests.labs.attacks.test_hostile} tries more kinds of attack, and all of them over TLS.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.attacks.hostile import KINDS
from tests.labs.attacks.test_hostile import cases

#: The kinds of attack that take only a few seconds.
_QUICK = [name for name in KINDS if not name.startswith("1,000 ")]


@pytest.mark.parametrize(
    ("name", "listener"), [*cases(_QUICK, "plain"), *cases(["KeyUpdates"], "TLS")]
)
def test_attack_keeps_nobody_out_and_breaks_nothing(
    tmp_path: Path, name: str, listener: str
) -> None:
    """
    The same workers serve an honest client meanwhile, and log no error.
    """
    kind = KINDS[name]
    kind.run(tmp_path, listener, kind.short)
