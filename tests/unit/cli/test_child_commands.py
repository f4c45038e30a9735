"""
The commands by which a supervisor starts its children.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.cli.child_commands import check_command, store_name, worker_command
from pexservice.settings.options import Settings


def test_a_worker() -> None:
    """
    A worker gets all options except C{--listen}, because it inherits the sockets.
    """
    command = worker_command(Settings(listen=("tcp:1",), journal=7))
    assert command.index("pexservice-worker") < command.index("--journal")
    assert "--listen" not in command


def test_a_check() -> None:
    """
    A check gets all options except C{--listen}, and none of twistd's.
    """
    command = check_command(Settings(listen=("tcp:1",), journal=7))
    assert command[2] == "pexservice.cli.check"
    assert command[command.index("--journal") + 1] == "7"
    assert "--listen" not in command
    assert "pexservice-worker" not in command


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("lmdb:/srv/store", "/srv/store"),
        ("lmdb:store", str(Path.cwd() / "store")),
        ("etcd:http://h:2379", "etcd:http://h:2379"),
    ],
)
def test_the_name_of_the_store(url: str, name: str) -> None:
    """
    A directory is called by its whole path, and a URL as it is.
    """
    assert store_name(Settings(store=url)) == name
