"""
The effects, the limits and the messages of a reload.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from errno import ECONNREFUSED
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from tests.support.daemon import Daemon, background, wait_until
from tests.support.pexctl import pexctl
from tests.support.ports import held_ports


def reload(pid: int | str, *options: str) -> tuple[int, str]:
    """
    Run C{pexctl reload}, and return its exit status and output.
    """
    return pexctl(Path(), "reload", str(pid), *options)


def test_reload_reports_its_outcome_and_status(tmp_path: Path) -> None:
    """
    A successful reload ends with status 0, a failed one with status 1 and the reason.

    A reload fails if the configuration file, or a file that it names, is wrong.  The old
    workers continue.  If one of them ends, its successor has the old options.
    """
    config, tokens = tmp_path / "pexservice.toml", tmp_path / "tokens"
    tokens.write_text("old\n")
    tokens.chmod(0o600)
    config.write_text('token-file = "tokens"\n')
    with Daemon(tmp_path, "--config", "pexservice.toml", "--standby", "0") as daemon:
        pid = daemon.process.pid

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return daemon.request("/next", "POST", headers)[0].status

        _, worker = daemon.active_worker()
        advice = f"is a worker; use the process id of its supervisor: {pid}"
        assert reload(worker) == (1, f"pexctl: process {worker} {advice}")
        assert (status("old"), status("new")) == (200, 401)
        tokens.write_text("new\n")
        assert reload(pid) == (0, "reloaded (1 since the service started)")
        assert (status("old"), status("new")) == (401, 200)

        tokens.write_text("not one\n")
        code, output = reload(pid)
        assert code == 1
        assert "reload failed: the token file" in output
        assert "; the old workers keep running" in output
        assert "line 1" in output
        assert status("new") == 200
        tokens.write_text("new\n")

        config.write_text('tokn-file = "tokens"\n')
        code, output = reload(pid)
        assert code == 1
        assert "pexservice.toml: there is no tokn-file (did you mean token-file?)" in output
        daemon.kill_active_worker()
        daemon.until_logged("serves", 3)
        assert status("new") == 200

        # A half-written file can be valid TOML.
        config.write_text("")
        code, output = reload(pid)
        assert code == 1
        assert "token-file is no longer set, so everybody could move the cursor" in output
        assert (status("new"), daemon.request("/next", "POST")[0].status) == (200, 401)
        accepted = reload(pid, "--accept", "token-file")
        assert accepted == (0, "reloaded (5 since the service started)")
        daemon.step()
        verbose = daemon.request("/livez?verbose")[1].decode()
        assert "\n[+]reload 5 succeeded\n" in verbose


def test_changed_store_waits_for_a_restart(tmp_path: Path) -> None:
    """
    A reload applies the number of standbys.

    It does not change the store, and says that this requires a restart.  The service only
    reads the configuration file.
    """
    config = tmp_path / "pexservice.toml"
    config.write_text("standby = 0\n")
    with Daemon(tmp_path, "--config", "pexservice.toml") as daemon:
        daemon.step()
        config.write_text('standby = 1\nstore = "lmdb:other"\njournal = 2\n')
        code, refused = reload(daemon.process.pid)
        assert code == 1
        assert "journal is 2 instead of 100000, so the oldest steps of the" in refused
        message = (
            "reloaded (2 since the service started); changing --store requires a restart"
        )
        assert reload(daemon.process.pid, "--accept", "journal") == (0, message)
        assert f"warn: {message.partition('; ')[2]}" in daemon.log.read_text()
        wait_until(lambda: "stands by" in daemon.log.read_text(), "there is a standby")
        assert [daemon.step() for _ in range(3)] == [2, 3, 4]
        assert len(daemon.request("/history")[1].splitlines()) == 2
        assert not (tmp_path / "other").exists()
        metrics = daemon.request("/metrics")[1]
        assert b"pexservice_standby_workers_wanted 1.0" in metrics
        assert b'pexservice_restart_pending{option="--store"} 1.0' in metrics
        config.write_text('standby = 1\nstore = "lmdb:nowhere/other"\njournal = 2\n')
        written = config.stat()
        code, message = reload(daemon.process.pid)
        assert (code, "nowhere/other cannot be created" in message) == (1, True)
    after = config.stat()
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_changed_address_and_log_format_wait_for_a_restart(tmp_path: Path) -> None:
    """
    A reload fails if the service could not listen on the new address after a restart.
    """
    config = tmp_path / "pexservice.toml"
    with held_ports(2) as (port, other_port):

        def listen_on(address: str, more: str = "") -> None:
            config.write_text(f'listen = ["{address}"]\n{more}')

        listen_on(f"tcp:{port}:interface=127.0.0.1")
        options = ("--config", "pexservice.toml", "--standby", "0")
        with background(tmp_path, *options) as pid:
            # RFC 5737 reserves this address for documentation, so no machine has it.
            listen_on(f"tcp:{other_port}:interface=192.0.2.1")
            code, output = reload(pid)
            assert (code, "192.0.2.1" in output) == (1, True), output
            listen_on("tcp:nonsense")
            code, output = reload(pid)
            assert (code, "the port must be a number" in output) == (1, True), output
            listen_on(f"tcp:{other_port}:interface=127.0.0.1", 'log-format = "json"\n')
            code, output = reload(pid)
            assert "changing --listen and --log-format requires" in output
            assert code == 0
            with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                metrics = response.read().decode()
            for option in ("--listen", "--log-format"):
                assert f'pexservice_restart_pending{{option="{option}"}} 1.0' in metrics
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", other_port)) == ECONNREFUSED
            assert "{" not in (tmp_path / "twistd.log").read_text()


def test_reload_notices_the_end_of_a_service_although_its_parent_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Daemon(tmp_path) as daemon:
        pid = daemon.process.pid
        killing = SimpleNamespace(SIGHUP=signal.SIGKILL)
        monkeypatch.setattr("pexservice.cli.verbs.reload.signal", killing)
        assert reload(pid) == (1, f"pexctl: process {pid} ended during the reload")


def test_reload_of_a_missing_process_differs_from_a_failed_reload() -> None:
    """
    A process that is no supervisor counts as missing.
    """
    # The test's own process may have a scoreboard from another test.
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as other:
        message = f"pexctl: process {other.pid} is no pexservice that has started"
        assert reload(other.pid) == (69, message)
        status = pexctl(Path(), "status", "--process", str(other.pid))
        assert status == (69, message)
        assert other.poll() is None
    assert reload(other.pid) == (69, f"pexctl: there is no process {other.pid}")
