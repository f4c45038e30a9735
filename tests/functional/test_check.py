"""
C{pexctl check} and C{pexctl status} with real files, addresses and services.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon import LOOPBACK, WORKER, Daemon, run
from tests.support.pexctl import pexctl
from tests.support.ports import held_ports


def test_check_names_the_new_store_and_creates_nothing(tmp_path: Path) -> None:
    line = f"well; a new store would be created in {tmp_path}/pexservice-data"
    options = ("--listen", LOOPBACK, "--access-log", "log")
    assert pexctl(tmp_path, "check", *options) == (0, line)
    as_json = '{"outcome": "well", "in_use": [], "notes": ["%s"]}'
    assert pexctl(tmp_path, "check", "--json", *options) == (0, as_json % line[6:])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        (
            ["--rate-limt", "5"],
            64,
            "there is no option --rate-limt (did you mean --rate-limit?)",
        ),
        (["--token-file", "none"], 64, "the token file none: No such file"),
        (["--access-log", "pipe"], 64, "the access log pipe: No such device"),
        (["--store", "lmdb:damaged"], 78, "is damaged"),
        (["--listen", "tcp:0:interface=192.0.2.1"], 1, "Cannot assign requested address"),
        (["--listen", "unix:"], 64, "--listen unix:: the path is empty"),
        (["--listen", "unix:mode=660:address=pipe"], 64, ": pipe exists, and is no socket"),
        (["--listen", "unix:none/socket"], 1, "unix:none/socket: No such file"),
        (["--listen", f"unix:{'x' * 300}"], 1, "the path is too long"),
    ],
)
def test_mistake_is_one_line_with_the_status_of_a_start(
    tmp_path: Path, options: list[str], status: int, expected: str
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "data.mdb").write_bytes(b"x" * 8192)
    # Nothing reads this named pipe, so that opening it must not wait for a reader.
    os.mkfifo(tmp_path / "pipe")
    if "--listen" not in options:
        options = [*options, "--listen", LOOPBACK]
    code, words = pexctl(tmp_path, "check", *options)
    assert code == status
    assert expected in words
    assert len(words.splitlines()) == 1


def test_address_that_is_listed_twice_is_refused_as_by_a_start(tmp_path: Path) -> None:
    with held_ports(1) as (port,):
        address = f"tcp:{port}:interface=127.0.0.1"
        other_form = f"{address}:backlog=5"
        for same in (address, "unix:socket"):
            status, output = pexctl(tmp_path, "check", "--listen", same, "--listen", same)
            assert status == 64
            assert f"--listen {same}: the address is listed twice" in output
        status, output = pexctl(
            tmp_path, "check", "--listen", address, "--listen", other_form
        )
    assert status == 1
    assert f"cannot listen on {other_form}: Address already in use" in output


def test_created_store_is_the_only_one_that_a_service_without_creation_opens(
    tmp_path: Path,
) -> None:
    """
    With C{no-create}, a missing store is an error that names the store.

    C{pexctl check} and a start report the same.  C{pexctl create} refuses a store that
    exists.
    """
    config = tmp_path / "pexservice.toml"
    config.write_text('store = "lmdb:store"\nno-create = true\n')
    store = tmp_path / "store"
    missing = f"there is no store in {store}, and --no-create is set; create one with"
    code, output = pexctl(tmp_path, "check", "--config", str(config))
    assert (code, missing in output) == (1, True)
    options = ("--config", str(config), "--listen", LOOPBACK)
    ended = run(tmp_path, "-n", "--pidfile=", WORKER, *options)
    (line,) = ended.stderr.splitlines()
    assert (ended.returncode, missing in line) == (1, True)
    assert not store.exists()
    assert pexctl(tmp_path, "create", "--config", str(config)) == (
        0,
        f"{store}: a new store was created, at revision 0, position 0",
    )
    before = (store / "data.mdb").read_bytes()
    code, output = pexctl(tmp_path, "create", "--store", f"lmdb:{store}")
    assert (code, output) == (1, f"pexctl: there is a store in {store} already")
    assert (store / "data.mdb").read_bytes() == before
    assert pexctl(tmp_path, "check", "--config", str(config))[0] == 0
    with Daemon(tmp_path, "--config", str(config), command=WORKER) as daemon:
        assert daemon.step() == 1
        assert "created a new store" not in daemon.log.read_text()
