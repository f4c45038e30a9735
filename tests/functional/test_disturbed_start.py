"""
Starts that are disturbed.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import (
    LOOPBACK,
    PATIENCE,
    Daemon,
    alive,
    children,
    patiently,
    twistd,
    until_gone,
)

#: Both ways to start the service.
PROGRAMS = {
    "module": [sys.executable, "-m", "pexservice"],
    "twistd": twistd(),
}


@pytest.fixture(params=[*PROGRAMS])
def begin(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """
    Provide a function that begins to start a service; it is gone when the test ends.
    """
    started: list[subprocess.Popen[bytes]] = []

    def begin(*options: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [
                        *PROGRAMS[request.param],
                        *("-n", "--pidfile=pid", "pexservice", "--listen", LOOPBACK),
                        *options,
                    ],
                    cwd=tmp_path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return started[-1]

    yield begin
    for each in started:
        theirs = children(each.pid)
        each.kill()
        each.wait()
        until_gone(*theirs)


def until_said(path: Path, words: str) -> str:
    """
    Wait until the log has C{words}, and return it.
    """
    for _ in patiently():
        said = (path / "log").read_text()
        if words in said:
            return said
    raise AssertionError(f"no {words!r} in\n{said}")


def held_check(process: subprocess.Popen[bytes]) -> int:
    """
    Wait for the child that checks, and stop it, so that the start waits.
    """
    for _ in patiently():
        for pid in children(process.pid):
            # Only once the child has executed the check.
            if b"pexservice.cli.check" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGSTOP)
                return pid
        assert process.poll() is None
    raise AssertionError("there is no check")


Begin = Callable[..., subprocess.Popen[bytes]]


def test_the_check_is_killed(begin: Begin, tmp_path: Path) -> None:
    """
    A check that is killed is repeated, and the service starts.

    The kernel kills a check like this when memory is short.
    """
    process = begin()
    for _ in range(3):
        check = held_check(process)
        os.kill(check, signal.SIGKILL)
        until_gone(check)
    said = until_said(tmp_path, "the cursor is at")
    assert said.count("ended by SIGKILL and is repeated") == 3


def test_sigterm_while_it_checks(begin: Begin, tmp_path: Path) -> None:
    """
    A SIGTERM during the check ends the process with status 0, at once, and leaves nothing.
    """
    process = begin()
    check = held_check(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not alive(check)
    assert not (tmp_path / "pid").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_sighup_while_it_checks(begin: Begin, tmp_path: Path) -> None:
    """
    A SIGHUP during the check is remembered: the workers are replaced when there are some.
    """
    process = begin()
    check = held_check(process)
    process.send_signal(signal.SIGHUP)
    os.kill(check, signal.SIGCONT)
    said = until_said(tmp_path, "the workers are replaced")
    assert "the cursor is at" in said
    assert process.poll() is None


def test_sighup_at_any_moment(begin: Begin, tmp_path: Path) -> None:
    """
    A SIGHUP is handled from the first line of our own code.

    It is handled as soon as the process has a handler, and again and again from then on.
    """
    process = begin()
    for _ in patiently():
        status = Path(f"/proc/{process.pid}/status").read_text()
        (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
        if int(caught.split()[1], 16) & 1 << signal.SIGHUP - 1:
            break
    for _ in patiently():
        process.send_signal(signal.SIGHUP)
        assert process.poll() is None
        if "the cursor is at" in (tmp_path / "log").read_text():
            break
    until_said(tmp_path, "the workers are replaced")


def test_the_supervisor_is_killed_while_it_checks() -> None:
    """
    A check, which waits here for an etcd that does not answer, ends with its supervisor.
    """
    with socket.create_server(("127.0.0.1", 0)) as etcd:
        etcd.settimeout(PATIENCE)
        check = subprocess.Popen(
            [
                *(sys.executable, "-m", "pexservice.cli.check"),
                *("--store", f"etcd:http://127.0.0.1:{etcd.getsockname()[1]}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        connection, _ = etcd.accept()
        assert check.stdout is not None
        check.stdout.close()
        assert check.wait(PATIENCE) == -signal.SIGKILL
        connection.close()


@pytest.mark.parametrize("held", ["address", "store"])
def test_started_again_at_once(tmp_path: Path, held: str) -> None:
    """
    A start waits for the workers of a supervisor that was killed.

    They hold the address and the store for a moment.
    """
    listen = LOOPBACK
    for _ in range(3):
        daemon = Daemon(tmp_path, "--listen", listen)
        daemon.ask("/next", "POST")
        if held == "address":
            listen = f"tcp:{daemon.port}:interface=127.0.0.1"
        workers = children(daemon.process.pid)
        daemon.process.kill()
        daemon.process.wait()
    with Daemon(tmp_path, "--listen", listen) as daemon:
        assert daemon.ask("/current")[1] == b"2\n"
    until_gone(*workers)


@pytest.mark.parametrize("limit", [16, 20, 24])
@pytest.mark.parametrize(
    "command", ["pexservice", "pexservice-worker", "--reactor=uvloop pexservice-worker"]
)
def test_few_descriptors(tmp_path: Path, command: str, limit: int) -> None:
    """
    A process with too few file descriptors ends with one line that says how many it needs.

    Its exit status is not 0.
    """
    ended = subprocess.run(
        [*PROGRAMS["module"], "-n", "--pidfile=", *command.split(), "--listen", LOOPBACK],
        cwd=tmp_path,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    said = f"pexservice: the limit of open files is {limit}, and 64 are the least that is"
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(said)
