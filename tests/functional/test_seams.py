"""
Changes to processes, store and files that must not lose a step or make one twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.functional.test_keepalive import STORE
from tests.support.commands import run_command
from tests.support.crowd import certified
from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    Daemon,
    children,
    exchange_on_unix_socket,
    poll_attempts,
    running_command,
    twistd,
    wait_until,
)
from tests.support.forms import amount
from tests.support.pexctl import pexctl


def step_when_ready(daemon: Daemon) -> int:
    """
    Repeat a step until it is made, and return the new revision.

    When one worker is active already, another may still refuse steps for a moment.
    """
    for _ in poll_attempts():
        answer, body = daemon.request("/next", "POST")
        if answer.status == 200:
            return int(answer.headers["Pex-Revision"])
    raise AssertionError(f"{answer.status} {body!r}\n{daemon.log.read_text()}")


def wait_for_status(daemon: Daemon, status: int, words: str = "") -> None:
    """
    Wait until C{/readyz} responds with C{status}, and with C{words} in its body.
    """
    for _ in poll_attempts():
        answer, body = daemon.request("/readyz?verbose")
        if answer.status == status and words in body.decode():
            return
    raise AssertionError(f"/readyz: {answer.status} {body!r}\n{daemon.log.read_text()}")


def test_switched_link_never_makes_two_workers_serve_two_stores(tmp_path: Path) -> None:
    """
    A standby that starts after the symbolic link was switched does not become active.

    The active worker refuses steps, because its successor would not have them.  When the
    link is back, both continue.
    """
    (tmp_path / "right").mkdir()
    link = tmp_path / STORE
    link.symlink_to("right")
    with Daemon(tmp_path) as daemon:
        daemon.until_up()
        revision = daemon.step()
        shutil.copytree(tmp_path / "right", tmp_path / "wrong")
        (tmp_path / "link").symlink_to("wrong")
        (tmp_path / "link").rename(link)
        os.kill(daemon.standby_worker(), signal.SIGKILL)
        daemon.wait_for_log(f"cannot serve: another store was put in the place of {link}")
        wait_for_status(daemon, 503, "another store was put in the place of")
        assert daemon.request("/next", "POST")[0].status == 503
        assert daemon.count_logged("serves") == 1
        (tmp_path / "link").symlink_to("right")
        (tmp_path / "link").rename(link)
        assert step_when_ready(daemon) == revision + 1
        daemon.until_logged("stands by", 2)
        assert daemon.count_logged("serves") == 1


def test_later_worker_creates_no_store_and_continues_when_it_is_back(
    tmp_path: Path,
) -> None:
    """
    While the store is away, clients get 503 with the reason, and no file is created.

    The service is not ready, the supervisor does not start workers in a loop, and
    C{/livez} responds.
    """
    with Daemon(tmp_path, "--standby", "0") as daemon:
        revision = daemon.step()
        store, away = tmp_path / STORE, tmp_path / "away"
        store.rename(away)
        store.mkdir()
        (store / "thesis.tex").touch()
        wait_for_status(daemon, 503, "was moved away")
        assert daemon.request("/next", "POST")[0].status == 503
        assert b"\npexservice_ready 0.0\n" in daemon.request("/metrics")[1]
        code, output = pexctl(tmp_path, "status", f"127.0.0.1:{daemon.port}")
        assert (code, "is not ready: " in output) == (1, True), output
        daemon.kill_workers()
        wait_for_status(daemon, 503, "thesis.tex")
        for method, target in (("GET", "/current"), ("POST", "/next"), ("GET", "/history")):
            answer, body = daemon.request(target, method)
            assert (answer.status, b"thesis.tex" in body) == (503, True)
        assert daemon.request("/livez")[0].status == 200
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_log("reload failed: .*thesis.tex")
        assert daemon.count_logged("is process") <= 4
        (store / "thesis.tex").unlink()
        # The directory is empty: no file was created.
        store.rmdir()
        away.rename(store)
        assert step_when_ready(daemon) == revision + 1
        # Each worker logged the reason once, and not at each attempt.
        assert daemon.log.read_text().count("error: cannot serve: the store") <= 2


def change_mounts(daemon: Daemon, command: str) -> None:
    """
    Run a command in the directory and in the mount namespace of the service.
    """
    run_command(
        *("/usr/bin/nsenter", f"--mount=/proc/{daemon.process.pid}/ns/mnt"),
        *("/bin/sh", "-c", f"cd {daemon.path} && {command}"),
    )


BIND_STORE = f"mount --bind disk {STORE}"

OTHER_STORE = "another store was put in the place of"

#: Commands that hide the store or remove its mount, the commands that undo them, and the
#: reasons that clients get from the workers that have served and from later ones.
MOUNTS = {
    "unmounted": (
        *(f"umount --lazy {STORE}", BIND_STORE),
        *("was moved away", "is gone; put it back"),
    ),
    "hidden by a copy": (
        *(f"mount --bind copy {STORE}", f"umount {STORE}"),
        *(OTHER_STORE, OTHER_STORE),
    ),
}


@pytest.mark.long
@pytest.mark.needs("root", "namespaces", "mount")
@pytest.mark.parametrize("kind", MOUNTS)
def test_changed_mount_makes_no_worker_create_or_serve_another_store(
    tmp_path: Path, kind: str
) -> None:
    """
    While the store's file system is unmounted or hidden, clients get 503 with the reason.

    When the mounts are as before, the service continues.
    """
    change, undo, reason, later_reason = MOUNTS[kind]
    for name in (STORE, "disk"):
        (tmp_path / name).mkdir()
    private = ("unshare", "--mount", "--propagation", "private")
    wrapper = (*private, "/bin/sh", "-c", f'{BIND_STORE} && exec "$@"', "sh")
    with Daemon(tmp_path, "--standby", "0", wrapper=wrapper) as daemon:
        revision = daemon.step()
        shutil.copytree(tmp_path / "disk", tmp_path / "copy")
        before = (tmp_path / "copy" / DATA_FILE).read_bytes()
        change_mounts(daemon, change)
        wait_for_status(daemon, 503, reason)
        assert daemon.request("/next", "POST")[0].status == 503
        daemon.kill_workers()
        wait_for_status(daemon, 503, later_reason)
        answer, body = daemon.request("/next", "POST")
        assert (answer.status, later_reason in body.decode()) == (503, True)
        # This is the directory in the mount namespace of the service.
        place = Path(f"/proc/{daemon.process.pid}/root{tmp_path / STORE}")
        assert reason == OTHER_STORE or [*place.iterdir()] == []
        change_mounts(daemon, undo)
        assert step_when_ready(daemon) == revision + 1
        # The step may be made before the supervisor logs that its worker serves.
        daemon.until_logged("serves", 2)
        assert daemon.count_logged("serves") == 2
        assert (tmp_path / "copy" / DATA_FILE).read_bytes() == before


def test_socket_file_outlives_the_workers_and_another_one_outlives_the_service(
    tmp_path: Path,
) -> None:
    """
    A reload keeps the file and its permissions.

    If the file is gone, a reload continues on TCP, and the log names the path.  At its end,
    the service does not remove the socket of another program.
    """
    path = tmp_path / "http.sock"
    options = ("--listen", f"unix:{path}:mode=600", "--listen", LOOPBACK)
    with (
        Daemon(tmp_path, *options, "--standby", "0") as daemon,
        socket.socket(socket.AF_UNIX) as other,
    ):
        for revision in (1, 2):
            response = exchange_on_unix_socket(path, b"POST /next HTTP/1.0\r\n\r\n")
            assert b"\r\nPex-Revision: %d\r\n" % revision in response
            assert path.stat().st_mode & 0o777 == 0o600
            if revision == 1:
                daemon.reload()
        path.unlink()
        daemon.reload()
        daemon.wait_for_log(f"error: the file of the Unix socket {path} is gone")
        assert daemon.step() == 3
        other.bind(str(path))
        assert daemon.stop() in (0, -signal.SIGTERM)
        assert path.is_socket()
    assert "Traceback" not in daemon.log.read_text()


def test_takeover_uses_the_tls_files_that_the_standby_has_read(tmp_path: Path) -> None:
    """
    An incomplete certificate does not end the service: the standby has read the old one.

    The supervisor starts further workers until the certificate is complete.  C{pexctl
    status --process} asks by HTTPS, whatever name the certificate has.
    """
    options, _ = certified(tmp_path, "pex.example.org")
    certificate = Path(options[1])
    with Daemon(tmp_path, *options, "--listen", "tcp:0:interface=0.0.0.0") as daemon:
        daemon.until_up()
        status = pexctl(tmp_path, "status", "--process", str(daemon.process.pid))
        assert status[1].startswith("ready: revision 0, position 0")
        whole = certificate.read_bytes()
        certificate.write_bytes(b"")
        daemon.kill_active_worker()
        daemon.until_logged("serves", 2)
        daemon.wait_for_log("ended with status 64")
        # Without any worker, the service waits for the files.
        failed_starts = daemon.count_logged("ended with status 64")
        daemon.kill_active_worker()
        daemon.until_logged("ended with status 64", failed_starts + 1)
        certificate.write_bytes(whole)
        daemon.until_logged("serves", 3)


def test_store_taken_by_another_service_is_named(tmp_path: Path) -> None:
    """
    The workers that wait for the lock name the process that has it, and clients get 503.

    When the lock is free, the service continues.
    """
    with Daemon(tmp_path, "--standby", "0") as daemon:
        revision = daemon.step()
        flock = ["/usr/bin/flock", "--no-fork", str(tmp_path / STORE), "sleep", "1000"]
        with running_command(flock) as process:
            for _ in poll_attempts():
                daemon.kill_workers()
                if "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text():
                    break
            daemon.wait_for_log(
                f"is in use by process {process.pid}, which is no worker of"
            )
            wait_for_status(daemon, 503, f"is in use by process {process.pid}")
            assert daemon.request("/next", "POST")[0].status == 503
            assert daemon.request("/livez")[0].status == 200
        assert step_when_ready(daemon) == revision + 1
        assert daemon.log.read_text().count("error: cannot serve") <= 2


def test_reader_of_the_log_that_stops_reading_stops_no_request(tmp_path: Path) -> None:
    """
    The log is a pipe that no process reads.  Requests and takeovers continue.

    When a process reads the pipe again, the log gives the number of lost lines.
    """
    options = ("--access-log", "-", "--listen", "unix:http.sock", "--standby", "0")
    with running_command(
        twistd("-n", "--pidfile=", "pexservice", *options),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A few log lines fill this pipe.
        pipesize=4096,
    ) as process:
        assert process.stdout is not None
        wait_until((tmp_path / "http.sock").exists, "the socket is there")
        for number in range(amount(short=12, long=80)):
            target = b"/current?" + b"x" * 1000 if number % 3 else b"/livez"
            request = b"GET %b HTTP/1.0\r\n\r\n" % target
            assert b" 200 OK" in exchange_on_unix_socket(tmp_path / "http.sock", request)
            if number % 10 == 9:
                for pid in children(process.pid):
                    os.kill(pid, signal.SIGKILL)
        # Afterwards the pipe has space for the next line.
        output = os.read(process.stdout.fileno(), 65536)
        process.terminate()
        output += process.stdout.read()
        process.stdout.close()
        assert b"log messages were dropped" in output
        assert process.wait(TIMEOUT_SECONDS) in (0, -signal.SIGTERM)


def test_log_goes_to_standard_error_if_standard_output_is_closed(tmp_path: Path) -> None:
    closed = ("/bin/bash", "-c", 'exec "$@" >&-', "bash")
    with Daemon(tmp_path, "--standby", "0", wrapper=closed) as daemon:
        assert daemon.step() == 1
    assert "Traceback" not in daemon.log.read_text()
