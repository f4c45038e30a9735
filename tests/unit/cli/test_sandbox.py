"""
The check of the paths against the sandbox of the service's unit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.cli.sandbox import problems, properties_of, unit_of
from pexservice.settings.options import Settings

#: As the Debian package's unit has them.
PROPERTIES = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "StateDirectory": "pexservice",
    "LogsDirectory": "pexservice",
    "RuntimeDirectory": "",
    "ReadWritePaths": "-/srv/pexservice",
}


@pytest.mark.parametrize(
    ("config", "unit"),
    [
        ("/etc/pexservice/pexservice.toml", "pexservice.service"),
        ("/etc/pexservice/blue.toml", "pexservice@blue.service"),
        ("/home/me/pexservice.toml", None),
        (None, None),
    ],
)
def test_unit_is_found_by_the_configuration_file(
    config: str | None, unit: str | None
) -> None:
    assert unit_of(config) == unit


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(store="lmdb:/var/lib/pexservice"), None),
        (Settings(store="lmdb:/srv/pexservice/store"), None),
        (
            Settings(store="lmdb:/srv/other"),
            "the store /srv/other is outside the sandbox of unit, which may not write"
            " there: systemctl edit unit, [Service], ReadWritePaths=/srv/other",
        ),
        (Settings(store="etcd:http://h:2379", access_log="-"), None),
        (
            Settings(store="etcd:http://h:2379", access_log="/var/log/access.log"),
            "the access log /var/log/access.log is outside the sandbox",
        ),
        (
            Settings(store="lmdb:/var/lib/pexservice", token_file="/root/tokens"),  # noqa: S106 a path
            "the token file /root/tokens is hidden from unit by ProtectHome=yes",
        ),
    ],
)
def test_a_path_outside_the_sandbox_is_named_with_the_remedy(
    settings: Settings, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A directory that is hidden: "-" is standard output, and no file there.
    monkeypatch.chdir("/tmp")  # noqa: S108 nothing is written there
    found_problems = [*problems(settings, "unit", PROPERTIES)]
    assert len(found_problems) == (expected is not None)
    assert all(problem.startswith(str(expected)) for problem in found_problems)
    assert not [*problems(settings, "unit", {})]


def test_without_systemd_there_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert properties_of("pexservice.service") == {}
