"""
The verbs C{backup} and C{restore} with a real service, and C{status} with a fake one.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.verify import summary
from tests.support.clients import highest, load, until_acknowledged, whole_history
from tests.support.daemon import (
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    captured,
    poll_attempts,
)
from tests.support.pexctl import PEXCTL, called, pexctl
from tests.support.stores import make_store
from tests.support.tcp_server import serving_connections

STORE = "pexservice-data"


def test_service_on_a_backup_made_under_load_continues_from_an_answered_state(
    tmp_path: Path,
) -> None:
    """
    The backup has a state that a client has got, and that is no older than the backup.

    It has the whole history up to this state, and the keys.
    """
    with Daemon(tmp_path, command=WORKER) as daemon:
        with load(daemon) as clients:
            until_acknowledged(clients, 50)
            oldest = highest(clients)
            assert pexctl(tmp_path, "backup", STORE, "copy")[0] == 0
            until_acknowledged(clients, 50)
        rows = whole_history(daemon)
    positions = {
        step.revision: step.position for client in clients for step in client.acknowledged
    }
    by_key = clients[1].acknowledged[0]
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {
        *(DATA_FILE, WITNESS_FILE)
    }
    with Daemon(tmp_path, "--store", "lmdb:copy", command=WORKER) as daemon:
        answer, _ = daemon.request("/current")
        revision = int(answer.headers["Pex-Revision"])
        assert oldest <= revision < len(rows)
        assert int(answer.headers["Pex-Position"]) == positions[revision]
        assert whole_history(daemon) == {n: rows[n] for n in range(1, revision + 1)}
        again, _ = daemon.request(f"/{by_key.word}", "POST", {"Idempotency-Key": "1-1"})
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Pex-Revision"] == str(by_key.revision)
        # The backup is a store like any other.
        assert daemon.step() == revision + 1
    assert not list(tmp_path.glob(".*partial*"))
    assert (tmp_path / STORE / READER_TABLE_FILE).exists()


def test_closed_standard_streams_get_no_output_and_do_no_harm(tmp_path: Path) -> None:
    """
    If a file of the copy got the descriptor of a closed stream, output would damage it.
    """
    make_store(tmp_path / STORE, 7)
    script = '"$0" backup pexservice-data copy <&- >&- 2>&-'
    backup = captured(["sh", "-c", script, *PEXCTL], cwd=tmp_path)
    assert (backup.returncode, backup.stdout, backup.stderr) == (0, "", "")
    assert pexctl(tmp_path, "verify", "copy")[0] == 0


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """
    Mount a file system of 1 MiB.
    """
    disk = path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    subprocess.run(mount, check=True, timeout=TIMEOUT_SECONDS)
    try:
        yield disk
    finally:
        unmount = ["umount", str(disk)]
        subprocess.run(unmount, check=True, timeout=TIMEOUT_SECONDS)


@pytest.mark.needs("mount", "mounts")
def test_restore_to_a_full_disk_leaves_the_store_that_was_there(tmp_path: Path) -> None:
    make_store(tmp_path / "other", 7)
    assert pexctl(tmp_path, "backup", "other", "copy")[0] == 0
    with small_disk(tmp_path) as disk:
        make_store(disk / STORE, 9)
        options = ("--to", f"disk/{STORE}", "--beyond", "3000000")
        status, line = pexctl(tmp_path, "restore", "copy", *options)
        assert status == 1
        assert line.startswith(
            "pexctl: --beyond: 2999994 steps cannot be made: disk full: the store"
        )
        assert "\n" not in line
        assert [file.name for file in disk.iterdir()] == [STORE]
        assert summary(disk / STORE).revision == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_backup_that_is_ended_leaves_a_whole_backup_or_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """
    The files that it leaves behind do not prevent the next backup.
    """
    make_store(tmp_path / "store", 1000)
    with subprocess.Popen([*PEXCTL, "backup", "store", "copy"], cwd=tmp_path) as ended:
        for _ in poll_attempts():
            if ended.poll() is not None or list(tmp_path.glob(".copy.partial-*")):
                break
        ended.send_signal(number)
        status = ended.wait(TIMEOUT_SECONDS)
    if number == signal.SIGTERM:
        assert status in (0, 128 + number)
        assert not list(tmp_path.glob(".copy.partial-*"))
    if (tmp_path / "copy").exists():
        # The backup was done before the signal arrived.
        assert pexctl(tmp_path, "verify", "copy")[0] == 0
    assert pexctl(tmp_path, "backup", "store", "again")[0] == 0


@contextmanager
def server(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """
    Run a server with the responses in C{answers}, by path, and yield its URL.

    It responds with 404 to other paths, and closes each connection without announcing it.
    """

    def respond(connection: socket.socket) -> None:
        method, path, _ = connection.recv(65536).decode().split(maxsplit=2)
        status, body = answers.get(path, (404, b"no"))
        connection.sendall(
            b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\n"
            b"Pex-Revision: 8\r\nPex-Position: 5\r\n\r\n" % (status, len(body))
        )
        if method != "HEAD":
            connection.sendall(body)

    with serving_connections(respond) as port:
        yield f"http://127.0.0.1:{port}"


def test_status_asks_a_service_below_a_prefix_only_there() -> None:
    with server({"/a/readyz?verbose": (200, b""), "/a/current": (200, b"5\n")}) as url:
        assert called("status", f"{url}/a/") == (0, "ready: revision 8, position 5\n", "")
        message = (
            f"pexctl: {url} answers /readyz with 404 and /current with 404; it is no"
            " pexservice, or it is busy\n"
        )
        assert called("status", url) == (69, "", message)


def test_status_shows_the_processes_that_the_service_names() -> None:
    checks = (
        b"[+]reactor ok\n[+]supervisor is process 4170: running\n"
        b"[+]worker-1 is process 4171: active\nlivez check passed\n"
    )
    answers = {"/readyz?verbose": (200, b""), "/current": (200, b"5\n")}
    with server({**answers, "/livez?verbose": (200, checks)}) as url:
        assert called("status", url).out == (
            "ready: revision 8, position 5; supervisor is process 4170 (running),"
            " worker-1 is process 4171 (active)\n"
        )
        assert called("status", url, "--json").json["processes"] == [
            {"name": "supervisor", "pid": 4170, "state": "running"},
            {"name": "worker-1", "pid": 4171, "state": "active"},
        ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[+]a ok\n[-]store failed: full\nreadyz check failed\n", "store failed: full"),
        (b"9 connections are busy\n", "9 connections are busy"),
        (b"", "the response gives no reason"),
    ],
)
def test_service_that_is_not_ready_ends_with_1_and_its_reason(
    body: bytes, reason: str
) -> None:
    with server({"/readyz?verbose": (503, body)}) as url:
        shown = called("status", url, "--json")
    assert (shown.status, shown.json["outcome"]) == (1, "not-ready")
    assert shown.err == f"pexctl: {url} is not ready: {reason}\n"
