"""
Which file system a store would be on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.stores import directory
from pexservice.stores.directory import Directory, file_system_type
from pexservice.stores.interface import StoreUnusable

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
24 23 8:2 / /home/local rw master:3 - xfs /dev/sda2 rw
25 22 0:41 / /with\040space rw - cifs //server/share rw
26 22 0:42 / /twice rw - nfs server:/a rw
27 26 8:3 / /twice rw - btrfs /dev/sda3 rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/pexservice", "ext4"),
        ("/home/somebody/data", "nfs4"),
        ("/homely", "ext4"),
        ("/home/local/data", "xfs"),
        ("/with space/data", "cifs"),
        ("/twice/data", "btrfs"),
    ],
)
def test_file_system_type(path: str, kind: str) -> None:
    """
    The longest mount point above the path decides, and of equals the latest.
    """
    assert file_system_type(Path(path), MOUNTS) == kind


def test_of_this_machine(tmp_path: Path) -> None:
    """
    The machine's own table is understood.
    """
    assert file_system_type(tmp_path) != "unknown"


def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is named, and nothing is made on it.
    """
    monkeypatch.setattr(directory, "file_system_type", lambda _: "nfs4")
    with pytest.raises(StoreUnusable, match=r"network file system \(nfs4\)"):
        Directory(str(tmp_path / "store")).own()
    assert list(tmp_path.iterdir()) == []
