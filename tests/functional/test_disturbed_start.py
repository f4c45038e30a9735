"""
Starts that are disturbed by signals, kills and limits.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    captured,
    children,
    poll_attempts,
    running_command,
    twistd,
    wait_until_gone,
)
from tests.support.stores import make_store

#: The ways to start the service.
PROGRAMS = {
    "command": [str(Path(sys.executable).parent / "pexservice")],
    "twistd": twistd(),
}

#: Python imports this module first: a child that verifies the store stops itself.
HOLD = """
import os, signal, sys
if "pexservice.stores.lmdb.verify.verify" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def begin(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """
    Provide a function that starts the service on a store and does not wait for it.
    """
    program = PROGRAMS[getattr(request, "param", "command")]
    make_store(tmp_path / "pexservice-data", 3)
    (tmp_path / "hold").mkdir()
    (tmp_path / "hold" / "sitecustomize.py").write_text(HOLD)

    def begin(*options: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            command = [*program, "-n", "--pidfile=pid", "pexservice", "--listen", LOOPBACK]
            return stack.enter_context(
                running_command(
                    [*command, *options],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(tmp_path / "hold")},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    with ExitStack() as stack:
        yield begin


def until_logged(path: Path, words: str, times: int = 1) -> str:
    """
    Wait until the log contains C{words} so often, and return the log.
    """
    for _ in poll_attempts():
        log = (path / "log").read_text()
        if log.count(words) >= times:
            return log
    raise AssertionError(f"no {words!r} in\n{log}")


def held_verification(process: subprocess.Popen[bytes], *, but: int = 0) -> int:
    """
    Return the process id of a child that verifies the store and has stopped itself.

    @param but: the process id of an earlier child.
    """
    for _ in poll_attempts():
        for worker in children(process.pid):
            # The child belongs to a thread of the worker.
            tasks = Path(f"/proc/{worker}/task").glob("*/children")
            for pid in [int(word) for task in tasks for word in task.read_text().split()]:
                with suppress(FileNotFoundError, ProcessLookupError):
                    is_stopped = ") T " in Path(f"/proc/{pid}/stat").read_text()
                    if is_stopped and pid != but:
                        return pid
        assert process.poll() is None
    raise AssertionError("nothing verifies the store")


Begin = Callable[..., subprocess.Popen[bytes]]


def test_killed_verification_is_repeated_and_a_sighup_meanwhile_is_remembered(
    begin: Begin, tmp_path: Path
) -> None:
    """
    If the child that verifies the store is killed, the next one verifies the store.

    The kernel kills processes when memory is short.  The supervisor replaces the workers
    when they are active.
    """
    process = begin("--standby", "0")
    killed = held_verification(process)
    os.kill(killed, signal.SIGKILL)
    verification = held_verification(process, but=killed)
    process.send_signal(signal.SIGHUP)
    os.kill(verification, signal.SIGCONT)
    log = until_logged(tmp_path, "the workers are replaced")
    assert "the cursor is at revision 3" in log
    assert "signal 9 ended the process that read it" in log
    assert process.poll() is None


def test_verification_after_a_suspicious_end_stays_due_during_a_takeover(
    begin: Begin, tmp_path: Path
) -> None:
    """
    The standby takes over at once.  The next worker that gets the lock at once verifies.
    """
    process = begin()
    first = held_verification(process)
    os.kill(first, signal.SIGCONT)
    log = until_logged(tmp_path, "worker-2 stands by")
    (active,) = re.findall(r"worker-1 is process (\d+)", log)
    os.kill(int(active), signal.SIGSEGV)
    until_logged(tmp_path, "worker-2 serves")
    log = until_logged(tmp_path, "worker-1 stands by")
    *_, standby = re.findall(r"worker-1 is process (\d+)", log)
    (active,) = re.findall(r"worker-2 is process (\d+)", log)
    # A standby that the supervisor started between the kills would take over.
    process.send_signal(signal.SIGSTOP)
    for pid in (standby, active):
        os.kill(int(pid), signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    os.kill(held_verification(process, but=first), signal.SIGCONT)
    until_logged(tmp_path, "the cursor is at revision 3", 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_verification_ends_with_its_supervisor(
    begin: Begin, tmp_path: Path, number: int
) -> None:
    """
    After SIGTERM, no pid file is left.
    """
    process = begin()
    verification = held_verification(process)
    workers = children(process.pid)
    process.send_signal(number)
    assert process.wait(TIMEOUT_SECONDS) in (0, -number)
    wait_until_gone(*workers, verification)
    assert number == signal.SIGKILL or not (tmp_path / "pid").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.long
def test_verification_that_stays_stopped_is_replaced_and_the_log_says_where_it_hung(
    begin: Begin, tmp_path: Path
) -> None:
    """
    The supervisor replaces the worker that waits for it after half a minute.
    """
    process = begin()
    verification = held_verification(process)
    until_logged(tmp_path, "no heartbeat from worker-1 for")
    os.kill(held_verification(process, but=verification), signal.SIGCONT)
    log = until_logged(tmp_path, "the cursor is at revision 3")
    assert " in run_child" in log
    wait_until_gone(verification)


@pytest.mark.parametrize("begin", PROGRAMS, indirect=True)
def test_sighup_at_any_moment_of_the_start_is_handled(begin: Begin, tmp_path: Path) -> None:
    """
    The program handles SIGHUP from its first line of code on.
    """
    # A new store is not verified.
    shutil.rmtree(tmp_path / "pexservice-data")
    process = begin("--standby", "0")
    for _ in poll_attempts():
        status = Path(f"/proc/{process.pid}/status").read_text()
        (caught,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
        if int(caught.split()[1], 16) & 1 << signal.SIGHUP - 1:
            break
    for _ in poll_attempts():
        process.send_signal(signal.SIGHUP)
        assert process.poll() is None
        if "the cursor is at" in (tmp_path / "log").read_text():
            break
    until_logged(tmp_path, "the workers are replaced")


@pytest.mark.parametrize(
    ("command", "limit"), [("pexservice", 16), ("pexservice-worker", 24)]
)
def test_start_with_too_few_descriptors_ends_with_64_and_the_needed_number(
    tmp_path: Path, command: str, limit: int
) -> None:
    """
    A restart would not raise the limit, so the status is that of a wrong option.
    """
    ended = captured(
        [*PROGRAMS["command"], "-n", "--pidfile=", command, "--listen", LOOPBACK],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    (line,) = ended.stderr.splitlines()
    words = f"pexservice: the limit of open files is {limit}, but 64 are required"
    assert (ended.returncode, line.startswith(words)) == (64, True)
