"""
The maintainer scripts of the Debian package: the creation of a store, and the purge.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import run_command

pytestmark = pytest.mark.once

DEBIAN = Path(__file__).parents[2] / "debian"

_POSTINST = (DEBIAN / "pexservice.postinst").read_text()

#: The part of postinst that creates a store.
(_CREATION,) = re.findall(
    r'^if \[ "\$1" = configure \] && \[ -z "\$\(ls -A "\$STORE"\)" \]; then\n.*?^fi\n',
    _POSTINST,
    re.MULTILINE | re.DOTALL,
)

_UNUSED = {"config": 'store = "lmdb:{root}/store"\n', "active": False, "files": []}


def creates_a_store(root: Path, version_before: str, **changes: object) -> bool:
    """
    Run the part of postinst that may create a store, with all its paths below C{root}.

    @param version_before: the second argument of postinst; empty for a first installation.
    """
    machine = _UNUSED | changes
    for name in ("store", "backups"):
        (root / name).mkdir()
    (root / "pexservice.toml").write_text(str(machine["config"]).format(root=root))
    for file in machine["files"]:  # type: ignore[attr-defined]
        (root / file).touch()
    script = "\n".join(
        (
            "set -e",
            f"STORE={root}/store CONFIG={root}/pexservice.toml",
            'as_service() { echo "$@"; }',
            f"systemctl() {{ return {0 if machine['active'] else 3}; }}",
            _CREATION.replace("/var/backups/pexservice", f"{root}/backups"),
        )
    )
    output = run_command("/bin/sh", "-c", script, "postinst", "configure", version_before)
    assert output in ("", f"pexctl create --config {root}/pexservice.toml\n")
    return bool(output)


@pytest.mark.parametrize("version_before", ["", "1.0.0"])
def test_first_installation_and_upgrade_of_an_unused_service_create_the_store(
    tmp_path: Path, version_before: str
) -> None:
    """
    The new configuration file has no-create, so the first start would fail otherwise.
    """
    assert creates_a_store(tmp_path, version_before)


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["store/data.mdb"]},
        {"files": ["backups/20260101T000000Z"]},
        {"config": 'store = "lmdb:/srv/store"\n'},
        {"active": True},
    ],
)
def test_upgrade_creates_no_store_where_one_may_be_missing(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """
    The store exists, has backups, is elsewhere, or is used by a running service.
    """
    assert not creates_a_store(tmp_path, "1.0.0", **change)


def test_purge_removes_the_stores_that_a_restore_replaced(tmp_path: Path) -> None:
    """
    The backups stay, and the output says so.
    """
    script = (DEBIAN / "pexservice.postrm").read_text()
    removed = ("pexservice", "pexservice@blue", "pexservice.before-20260101T000000Z")
    kept = ("pexservice-other", "backups/pexservice/20260101T000000Z")
    for name in (*removed, *kept):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "data.mdb").touch()
    # All paths are below tmp_path.
    for path in ("/var/lib", "/var/log"):
        script = script.replace(f"{path}/", f"{tmp_path}/")
    script = script.replace("/var/backups/", f"{tmp_path}/backups/")
    assert "/var/" not in script.replace(str(tmp_path), "")
    output = run_command("/bin/sh", "-c", script, "postrm", "purge")
    assert output == f"The backups in {tmp_path}/backups/pexservice are kept.\n"
    assert [name for name in removed if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []


def test_no_maintainer_script_writes_a_configuration_file() -> None:
    """
    Only dpkg replaces the file, with a rename, because half of a file may be valid TOML.
    """
    scripts = [
        path
        for kind in ("preinst", "postinst", "prerm", "postrm")
        for path in DEBIAN.glob(f"*.{kind}")
    ]
    assert len(scripts) == 4
    file = r"(\"?\$\{?CONFIG\}?\"?|/etc/pexservice)"
    writes = re.compile(rf">\s*{file}|\b(cp|install|mv|sed -i|tee|dd)\b.*{file}")
    for script in scripts:
        for line in script.read_text().splitlines():
            assert not writes.search(line), f"{script.name}: {line}"
