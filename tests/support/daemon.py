"""
A daemon of the test's own.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Self

#: How long anything may take before the test gives up.  Seconds; a safety net, far
#: longer than anything takes.
TIMEOUT_SECONDS = 60

#: The names that the fault-injection tests still use.
PATIENCE = TIMEOUT_SECONDS

LOOPBACK = "tcp:0:interface=127.0.0.1"


def twistd(*arguments: str, python: str = sys.executable) -> list[str]:
    """
    Return the command line of C{twistd}.

    @param python: the interpreter, of the tests' environment or of another.
    """
    code = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
    # Twisted leaves a socket that it could not bind to the garbage collector.
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
    # Twisted 24.11's asyncio reactor asks for an event loop before there is one.
    warnings += ["-W", "ignore:There is no current event loop:DeprecationWarning"]
    if python != sys.executable:
        # Deprecated calls in another environment are not ours to mend.
        warnings = []
    return [python, *warnings, "-c", code, *arguments]


class Daemon:
    """
    C{twistd -n} with one of our services, in its own directory.

    @ivar port: where it listens.
    """

    def __init__(
        self,
        path: Path,
        *options: str,
        command: str = "pexservice",
        python: str = sys.executable,
        wrapper: Sequence[str] = (),
    ) -> None:
        """
        Start the service, and wait until it serves.

        @param wrapper: a command that executes the service's command in its own process.
        """
        self.path = path
        self.log = path / "log"
        listen = [] if "--listen" in options else ["--listen", LOOPBACK]
        # A worker by itself runs on asyncio's own event loop, and the supervisor's on
        # uvloop's: so both are tested.
        reactor = ("--reactor=asyncio",) if command == "pexservice-worker" else ()
        before = ("-n", "--pidfile=", *reactor)
        if command == "pexservice" and "--watchdog" not in options:
            # A busy machine may stop any worker for longer than the default, 5 seconds.
            options = ("--watchdog", str(TIMEOUT_SECONDS), *options)
        with self.log.open("ab") as log:
            start = log.tell()
            self.process = subprocess.Popen(
                [
                    *wrapper,
                    *twistd(*before, command, *listen, *options, python=python),
                ],
                cwd=path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            start_log = self._wait_for(r"the cursor is at", start)
            address = re.search(r"listening on 127\.0\.0\.1:(\d+)", start_log)
            self.port = int(address[1]) if address else 0
        except BaseException:
            self.kill()
            raise

    def _wait_for(self, pattern: str, start: int = 0) -> str:
        """
        Wait until the log has C{pattern}.

        @return: the log, from C{start}.
        """
        for _ in poll_attempts():
            log = self.log.read_bytes()[start:].decode()
            if re.search(pattern, log):
                return log
            if self.process.poll() is not None:
                break
        raise AssertionError(f"no {pattern!r} in the log:\n{log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """
        Stop the daemon, and check that it stopped well, unless the test has stopped it.
        """
        if self.process.poll() is None:
            status = self.stop()
            assert error is not None or status in (0, -signal.SIGTERM), status

    def stop(self) -> int:
        """
        Send SIGTERM, and wait until the daemon ends.

        @return: the exit status.
        """
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """
        Wait until the daemon ends.

        @return: the exit status.
        """
        try:
            return self.process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """
        Send SIGKILL.  A supervisor's workers end by themselves.
        """
        workers = children(self.process.pid)
        self.process.kill()
        self.process.wait()
        wait_until_gone(*workers)

    def connect(self) -> HTTPConnection:
        """
        Return a connection to the daemon.
        """
        return HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)

    def request(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """
        Make one request on its own connection.
        """
        connection = self.connect()
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    # The names that the fault-injection tests still use.
    ask = request


def children(pid: int) -> list[int]:
    """
    Return the children of a process.
    """
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def runs_a_worker(pid: int) -> bool:
    """
    Return whether the process has begun to run Python for a worker.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return b"python" in words[0] and b"pexservice-worker" in words


def alive(pid: int) -> bool:
    """
    Return whether there is such a process.

    A process that is dead and not buried is none: not every process 1 of a container buries
    what others leave.
    """
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_until_gone(*pids: int) -> None:
    """
    Wait until these processes are gone.
    """
    wait_until(lambda: not any(map(alive, pids)), f"{pids} are gone")


until_gone = wait_until_gone


def read_all(connection: socket.socket) -> bytes:
    """
    Read until the other side closes.
    """
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def read_response(connection: socket.socket) -> bytes:
    """
    Read one answer, head and body; the two may come in pieces.
    """
    received = b""
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if separator and len(body) >= int(length[1] if length else 0):
            return received
        chunk = connection.recv(65536)
        if not chunk:
            return received
        received += chunk


read_answer = read_response


def poll_attempts() -> Iterator[None]:
    """
    Give time to look again, until L{TIMEOUT_SECONDS} is over.
    """
    end = time.monotonic() + TIMEOUT_SECONDS
    yield
    while time.monotonic() < end:
        time.sleep(0.01)
        # Also when this process was stopped until after the end.
        yield


patiently = poll_attempts


def deadlines() -> Iterator[float]:
    """
    Yield ever longer deadlines for a call that must fail by its deadline.

    On a busy machine a short one may be over before the call has done what the test is
    about.
    """
    yield from (0.5, 2.0, 8.0, 32.0)


def wait_until(condition: Callable[[], object], words: str) -> None:
    """
    Wait until C{condition} holds.

    @param words: the condition in words, as in "the socket is there".
    @raise AssertionError: it does not hold in time.
    """
    for _ in poll_attempts():
        if condition():
            return
    raise AssertionError(f"not in {TIMEOUT_SECONDS} seconds: {words}")


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run C{twistd} to its end.
    """
    return subprocess.run(
        twistd(*arguments),
        cwd=path,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@contextmanager
def background(path: Path, *options: str) -> Iterator[int]:
    """
    Run a daemonised service until the end of the block.

    @return: its process id.
    """
    started = run(path, "pexservice", *options)
    assert (started.returncode, started.stderr) == (0, "")
    pid = int((path / "twistd.pid").read_text())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until_gone(pid)
