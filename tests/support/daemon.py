"""
Start and stop a real service in a test's own directory.
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
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Self

#: A test fails when it has waited this long.  No wait takes nearly as long, unless the code
#: under test hangs.
TIMEOUT_SECONDS = 60

LOOPBACK = "tcp:0:interface=127.0.0.1"

#: One worker without a supervisor.  It starts in a third of the time of a service.
WORKER = "pexservice-worker"

#: The event loops that a worker runs on: by default, and where uvloop is not installed.
REACTORS = ("uvloop", "asyncio")

#: Gives descriptor 3 to a command, as systemd does.  C{LISTEN_PID} must be the id of the
#: process itself, so the process sets it.
_INHERIT = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1',"
    " LISTEN_FDNAMES='pexservice.socket', LISTEN_PID=str(os.getpid()));"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


def twistd(*arguments: str, python: str = sys.executable) -> list[str]:
    """
    Return the command line of C{twistd}.

    @param python: the interpreter of the tests' environment or of another one.
    """
    code = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
    # If Twisted cannot bind a socket, it leaves the socket to the garbage collector.
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
    # The asyncio reactor of Twisted 24.11 gets the event loop before one exists.
    warnings += ["-W", "ignore:There is no current event loop:DeprecationWarning"]
    if python != sys.executable:
        # The packages of another environment may make deprecated calls.
        warnings = []
    return [python, *warnings, "-c", code, *arguments]


class Daemon:
    """
    C{twistd -n} with a pexservice command, in its own directory.

    @ivar port: the TCP port on 127.0.0.1 that the service listens on, or 0.
    """

    def __init__(
        self,
        path: Path,
        *options: str,
        command: str = "pexservice",
        reactor: str = "asyncio",
        python: str = sys.executable,
        wrapper: Sequence[str] = (),
        inherited: socket.socket | None = None,
    ) -> None:
        """
        Start the service, and wait until a worker has opened the store.

        @param reactor: the reactor of C{pexservice-worker}.  A supervisor chooses the
            reactor of its workers itself.
        @param wrapper: a command that executes the service's command in its own process.
        @param inherited: a socket that the service inherits, as from systemd.
        """
        self.path = path
        self.log = path / "log"
        listen = [] if "--listen" in options else ["--listen", LOOPBACK]
        choice = (f"--reactor={reactor}",) if command == WORKER else ()
        before = ("-n", "--pidfile=", *choice)
        if command == "pexservice" and "--watchdog" not in options:
            # On a busy machine a worker may stand still for longer than the default of 5
            # seconds.
            options = ("--watchdog", str(TIMEOUT_SECONDS), *options)
        if inherited is not None:
            wrapper = (sys.executable, "-c", _INHERIT, str(inherited.fileno()))
        with self.log.open("ab") as log:
            # An earlier daemon may have written to the same file.
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                [*wrapper, *twistd(*before, command, *listen, *options, python=python)],
                cwd=path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if inherited is None else (inherited.fileno(),),
            )
        try:
            start_log = self.wait_for_log(r"the cursor is at", self._log_start)
            address = re.search(r"listening on 127\.0\.0\.1:(\d+)", start_log)
            self.port = int(address[1]) if address else 0
        except BaseException:
            self.kill()
            raise

    def wait_for_log(self, pattern: str, start: int = 0) -> str:
        """
        Wait until the log matches C{pattern}.

        @return: the log from offset C{start} on.
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

    def __exit__(self, error: object, *_: object) -> None:
        """
        Stop the daemon if it still runs, and check its exit status.
        """
        if self.process.poll() is None:
            status = self.stop()
            assert error is not None or status in (0, -signal.SIGTERM), status

    def stop(self) -> int:
        """
        Send SIGTERM, wait until the daemon ends, and return its exit status.
        """
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """
        Wait until the daemon ends, and return its exit status.
        """
        try:
            return self.process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """
        Send SIGKILL, and wait until the daemon and its workers are gone.
        """
        workers = children(self.process.pid)
        self.process.kill()
        self.process.wait()
        wait_until_gone(*workers)

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)

    def request(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[HTTPResponse, bytes]:
        """
        Make one request on a new connection.
        """
        connection = self.connect()
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def step(self, name: str = "next", headers: dict[str, str] | None = None) -> int:
        """
        Make a step on a new connection, and return the new revision.
        """
        response, body = self.request(f"/{name}", "POST", headers)
        assert response.status == 200, body
        return int(response.headers["Pex-Revision"])

    def revision(self) -> int:
        return int(self.request("/current")[0].headers["Pex-Revision"])

    # The workers of a supervisor.

    def workers(self) -> list[int]:
        """
        Return the process ids of all workers.
        """
        return children(self.process.pid)

    def active_worker(self) -> tuple[str, int]:
        """
        Return the name and the process id of the active worker, according to the log.

        Wait for the first one: the worker logs that it has opened the store before the
        supervisor logs that the worker serves.
        """
        self.until_logged("serves", 1)
        process_ids: dict[str, str] = {}
        for name, event in self._worker_events():
            if event.startswith("is process "):
                process_ids[name] = event.removeprefix("is process ")
            elif event == "serves":
                active = name, int(process_ids[name])
        return active

    def standby_worker(self) -> int:
        """
        Return the process id of the standby.
        """
        (pid,) = {*self.workers()} - {self.active_worker()[1]}
        return pid

    def _worker_events(self) -> list[tuple[str, str]]:
        """
        Return each state that the supervisor logged, such as (worker-1, serves).
        """
        log = self.log.read_bytes()[self._log_start :].decode()
        return re.findall(r"supervisor \w+: (worker-\d+) (?!took over)(.*)\n", log)

    def count_logged(self, words: str) -> int:
        """
        Return how many log lines of the supervisor say C{words} about a worker.
        """
        return sum(event.startswith(words) for _, event in self._worker_events())

    def until_logged(self, words: str, times: int) -> None:
        """
        Wait until so many log lines of the supervisor say C{words} about a worker.
        """
        wait_until(lambda: self.count_logged(words) >= times, f"{words} {times} times")

    def until_up(self) -> None:
        """
        Wait until there are an active worker and a standby.
        """

        def is_up() -> bool:
            states = dict(self._worker_events()).values()
            running = [state for state in states if not state.startswith("ended ")]
            # The log may not yet have the end of a worker.
            return sorted(running) == ["serves", "stands by"] and alive(
                self.active_worker()[1]
            )

        wait_until(is_up, "one worker serves and one stands by")

    def reload(self) -> None:
        """
        Replace the workers by SIGHUP, and wait until this is done.
        """
        done = "the workers are replaced"
        before = self.log.read_text().count(done)
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log.read_text().count(done) > before, done)

    def kill_active_worker(self) -> int:
        """
        Kill the active worker, and return its process id.
        """
        _, pid = self.active_worker()
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_workers(self) -> None:
        """
        Kill all workers.
        """
        for pid in self.workers():
            # The worker may have ended meanwhile.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """
        Kill the supervisor alone: its workers end a moment later.
        """
        self.process.kill()
        self.process.wait()


def children(pid: int) -> list[int]:
    """
    Return the process ids of the children of a process.
    """
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def runs_a_worker(pid: int) -> bool:
    """
    Return whether the process is a worker that has begun to run Python.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return b"python" in words[0] and b"pexservice-worker" in words


def alive(pid: int) -> bool:
    """
    Return whether the process exists and is no zombie.

    In some containers, process 1 does not reap the zombies that it inherits.
    """
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(map(alive, pids)), f"{pids} are gone")


def exchange_on_unix_socket(path: Path | str, request: bytes) -> bytes:
    """
    Send a request on a new connection, and return the response.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(path))
        connection.sendall(request)
        return read_response(connection)


def read_all(connection: socket.socket) -> bytes:
    """
    Read until the peer closes the connection.
    """
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def read_response(connection: socket.socket) -> bytes:
    """
    Read one response: the head, and as many bytes as its Content-Length.
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


def poll_attempts() -> Iterator[None]:
    """
    Yield every 10 ms until L{TIMEOUT_SECONDS} have passed, for a loop that polls.
    """
    end = time.monotonic() + TIMEOUT_SECONDS
    yield
    while time.monotonic() < end:
        time.sleep(0.01)
        # If this process was suspended until after the end, the loop polls once more.
        yield


def deadlines() -> Iterator[float]:
    """
    Yield growing deadlines for a call that must fail at its deadline.

    On a busy machine, a short deadline may pass before the call reaches the point that the
    test examines.
    """
    yield from (0.5, 2.0, 8.0, 32.0)


def wait_until(condition: Callable[[], object], words: str) -> None:
    """
    Poll C{condition} until it is true.

    @param words: the condition in words, such as "the socket is there".
    @raise AssertionError: the condition was not true within L{TIMEOUT_SECONDS}.
    """
    for _ in poll_attempts():
        if condition():
            return
    raise AssertionError(f"not in {TIMEOUT_SECONDS} seconds: {words}")


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run C{twistd}, and wait until it ends.
    """
    return captured(twistd(*arguments), cwd=path)


def captured(
    command: Sequence[str], timeout: float = TIMEOUT_SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    """
    Run a command without input until it ends, with any status, and capture what it writes.

    @param options: arguments of C{subprocess.run}.
    """
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


@contextmanager
def running_command(
    command: Sequence[str], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Start a command, and kill it after the block.  Its child processes end by themselves.

    @param options: arguments of C{Popen}.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        workers = children(process.pid)
        process.kill()
        process.wait()
        wait_until_gone(*workers)


@contextmanager
def background(path: Path, *options: str) -> Iterator[int]:
    """
    Start a daemonized service, yield its process id, and stop it after the block.
    """
    started = run(path, "pexservice", *options)
    assert (started.returncode, started.stderr) == (0, "")
    pid = int((path / "twistd.pid").read_text())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until_gone(pid)
