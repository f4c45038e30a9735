"""
The Python client with a real service.
"""

from __future__ import annotations

import _thread
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from attrs import evolve
from twisted.logger import capturedLogs

from pexservice.client import (
    BlockingCursor,
    CertificateRefused,
    CursorError,
    Moved,
    OutcomeUnknown,
    State,
    Unanswered,
    UnexpectedAnswer,
    blocking,
)
from tests.support.crowd import AUTHORITY, certified
from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    deadlines,
)
from tests.support.pexctl import called
from tests.support.tcp_server import serving_connections


def url(daemon: Daemon, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{daemon.port}"


def run_script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """
    Provide a worker that listens on IPv4, on IPv6 and on a Unix socket.
    """
    addresses = (LOOPBACK, r"tcp6:0:interface=\:\:1", "unix:socket")
    listen = [word for address in addresses for word in ("--listen", address)]
    with Daemon(tmp_path_factory.mktemp("worker"), *listen, command=WORKER) as daemon:
        yield daemon


def test_every_call_works_over_tcp_without_a_reactor(worker: Daemon) -> None:
    with BlockingCursor(url(worker)) as cursor:
        assert repr(cursor) == f"<BlockingCursor {url(worker)}>"
        first = cursor.reset().revision
        assert cursor.current() == State(revision=first, position=0)
        assert [cursor.next().value for _ in range(4)] == [1, 1, 2, 3]
        state = cursor.previous(if_revision=first + 4)
        assert (state.value, state.previous, state.next) == (2, 1, 3)
        with pytest.raises(Moved) as caught:
            cursor.next(if_revision=first + 4)
        assert caught.value.state == State(revision=first + 5, position=3)
        stepped = cursor.next(key="k")
        assert cursor.next(key="k") == evolve(stepped, replayed=True)
        with pytest.raises(CursorError, match="this Idempotency-Key was used for /next"):
            cursor.reset(key="k")
        assert cursor.reset().position == 0
        steps = [(step.revision, step.transition) for step in cursor.history(limit=2)]
        assert steps == [(first + 7, "reset"), (first + 6, "next")]
        before = [step.revision for step in cursor.history(before=first + 2, limit=2)]
        assert before == [first + 1, first]
        seen = []
        for state in cursor.watch():
            seen.append(state.revision - first)
            if len(seen) == 3:
                break
            cursor.next()
        assert seen == [7, 8, 9]


def test_every_address_of_a_service_is_reached(worker: Daemon) -> None:
    (port,) = re.findall(r"listening on \[::1\]:(\d+)", worker.log.read_text())
    path = str(worker.path / "socket")
    encoded = f"http+unix://{path.replace('/', '%2F')}"
    for base in (f"http://[::1]:{port}", encoded, f"unix:{path}"):
        with BlockingCursor(base) as cursor:
            before = cursor.current()
            assert cursor.next().revision == before.revision + 1


def test_unix_socket_that_answers_is_not_taken_for_another(
    worker: Daemon, tmp_path: Path
) -> None:
    """
    The client keeps its connection to the other server, which refuses every step.
    """

    def refuse(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    other, own = tmp_path / "socket", worker.path / "socket"
    before = worker.revision()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(other))
        listening.listen()
        with (
            serving_connections(refuse, listening),
            BlockingCursor(f"unix:{other}", f"unix:{own}") as cursor,
        ):
            assert cursor.next().revision == before + 1


def test_many_threads_share_one_cursor(worker: Daemon) -> None:
    before = worker.revision()
    with BlockingCursor(url(worker)) as cursor, ThreadPoolExecutor(8) as threads:
        states = list(threads.map(lambda _: cursor.next(), range(40)))
    assert sorted(state.revision for state in states) == [*range(before + 1, before + 41)]


def test_tls_trusts_the_authority_in_a_file_and_no_other(tmp_path: Path) -> None:
    options, _ = certified(tmp_path)
    trusted, another = str(tmp_path / AUTHORITY), str(tmp_path / "another.pem")
    trustme.CA().cert_pem.write_to_path(another)
    with Daemon(tmp_path, *options, command=WORKER) as daemon:
        at = url(daemon, "https")
        with BlockingCursor(at, ca_file=trusted) as cursor:
            assert cursor.next().value == 1
            assert next(iter(cursor.watch())).revision == 1
        for base, ca_file, words in (
            (at, another, r"got another \(TLS: cert"),
            (at, None, r"authority, got another \(TLS: cert"),
            (f"https://localhost:{daemon.port}", trusted, "one for another name"),
        ):
            with (
                BlockingCursor(base, ca_file=ca_file) as cursor,
                pytest.raises(CertificateRefused, match=words),
            ):
                cursor.next()
        verified = called("status", "--url", at, "--ca-file", trusted)
        assert (verified.status, verified.err) == (0, "")
        assert called("next", "--url", at, "--ca-file", trusted).status == 0
        for verb in ("status", "next"):
            refused = called(verb, "--url", at)
            assert refused.status == 69
            assert "certificate" in refused.err
        plain = called("status", "--url", url(daemon))
        assert plain.status == 69
        assert f"complete response arrived; if it speaks TLS, use {at}" in plain.err


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "sent", "expected", "words"),
    [
        ("http", b"SSH-2.0-OpenSSH\r\n", UnexpectedAnswer, "expected HTTP, got 'SSH-2.0-"),
        ("https", b"HTTP/1.1 400 No\r\n\r\n", UnexpectedAnswer, "expected TLS, got "),
        # The client repeats a request whose failure may be temporary.
        ("http", b"", OutcomeUnknown, "closed before the complete"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", OutcomeUnknown, "valid"),
        ("http", CHUNKED + b"5\r\n{", OutcomeUnknown, "closed before the complete"),
    ],
)
def test_response_of_no_service_is_one_exception_and_the_key_is_kept(
    scheme: str, sent: bytes, expected: type[CursorError], words: str
) -> None:
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))
        connection.sendall(sent)

    # The client does not repeat a request that would get the same response.
    is_final = expected is UnexpectedAnswer
    with (
        serving_connections(answer) as port,
        BlockingCursor(f"{scheme}://127.0.0.1:{port}") as cursor,
    ):
        for deadline in [TIMEOUT_SECONDS] if is_final else deadlines():
            heard.clear()
            with pytest.raises(expected) as caught:
                cursor.next(deadline=deadline)
            if words in str(caught.value) and (len(heard) == 1) == is_final:
                break
    assert words in str(caught.value)
    assert (len(heard) == 1) == is_final
    assert caught.value.key is not None
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "interrupt", [lambda: os.kill(os.getpid(), signal.SIGINT), _thread.interrupt_main]
)
def test_ctrl_c_ends_a_call_that_waits_for_a_response(
    interrupt: Callable[[], object],
) -> None:
    """
    C{interrupt_main} only sets a flag, like a signal that arrives just before a wait.
    """

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        interrupt()
        # The client closes the connection.
        connection.recv(1)

    # If a shell started the tests in the background, they ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            serving_connections(answer) as port,
            BlockingCursor(f"http://127.0.0.1:{port}", deadline=60) as cursor,
            pytest.raises(KeyboardInterrupt),
        ):
            cursor.next()
    finally:
        signal.signal(signal.SIGINT, handler)


def test_interrupt_after_a_call_has_begun_cancels_it(
    worker: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Otherwise the call would continue, and the watch could not be closed.
    """
    reactor: Any = blocking.running_reactor()
    call_from_thread = reactor.callFromThread

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        call_from_thread(*arguments)
        raise KeyboardInterrupt

    with BlockingCursor(url(worker)) as cursor, capturedLogs() as events:
        states = cursor.watch()
        next(states)
        monkeypatch.setattr(reactor, "callFromThread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(states)
        # After this call, the reactor has closed the watch.
        cursor.current()
    assert not [event for event in events if "log_failure" in event]


HAS_RUN = """
from twisted.internet import reactor
from pexservice.client import BlockingCursor

reactor.callWhenRunning(reactor.stop)
reactor.run()
for _ in range(2):
    try:
        BlockingCursor("http://127.0.0.1:1")
    except RuntimeError as error:
        print(error)
"""


def test_reactor_that_has_run_is_an_error_instead_of_a_wait() -> None:
    ended = run_script(HAS_RUN)
    assert ended.stdout.count("the reactor of this process has run") == 2
    assert ended.stderr == ""


FORKED = """
import os, sys, warnings
from pexservice.client import BlockingCursor

# Python itself warns of a fork while threads run.
warnings.simplefilter("ignore", DeprecationWarning)
with BlockingCursor(sys.argv[1]) as cursor:
    print(cursor.next().position, flush=True)
    if os.fork() == 0:
        for attempt in (cursor.next, lambda: BlockingCursor(sys.argv[1]), cursor.close):
            try:
                attempt()
            except RuntimeError as error:
                print(error)
        # The functions that run when a process ends must not stop the parent's reactor.
        sys.exit()
    os.wait()
    print(cursor.next().position)
"""


def test_forked_child_raises_at_once_and_leaves_the_parents_reactor_alone(
    worker: Daemon,
) -> None:
    ended = run_script(FORKED, url(worker))
    first, *_, last = ended.stdout.splitlines()
    assert int(last) == int(first) + 1
    assert ended.stdout.count("this process was forked after BlockingCursor was used") == 3


def test_deadline_ends_the_wait_for_a_reactor_that_is_blocked(
    worker: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    with BlockingCursor(url(worker)) as cursor:
        before = cursor.current()
        with monkeypatch.context() as patched:
            patched.setattr(blocking, "LATE_REACTOR_SECONDS", 0.1)
            blocking.running_reactor().callFromThread(release.wait, TIMEOUT_SECONDS)
            words = r"no response within 0\.1 s: the reactor is blocked$"
            with pytest.raises(Unanswered, match=f"^{words}") as read:
                cursor.current(deadline=0.1)
            assert not isinstance(read.value, OutcomeUnknown)
            with pytest.raises(OutcomeUnknown, match=r"unknown whether next was") as step:
                cursor.next(deadline=0.1)
            assert step.value.key
            release.set()
        # The calls were cancelled before the reactor could begin them.
        assert cursor.current() == before


def test_close_does_not_wait_for_a_tls_peer_that_is_silent(tmp_path: Path) -> None:
    """
    The server does not respond to the client's close_notify.
    """
    options, _ = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options[1], options[3])
    finished = threading.Event()

    def answer(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            finished.wait(TIMEOUT_SECONDS)

    with serving_connections(answer) as port:
        trusted = str(tmp_path / AUTHORITY)
        cursor = BlockingCursor(f"https://127.0.0.1:{port}", ca_file=trusted)
        with pytest.raises(UnexpectedAnswer, match="status 404"):
            cursor.current()
        cursor.close()
        finished.set()


def test_wrong_argument_raises_type_error_and_makes_no_step(worker: Daemon) -> None:
    before = worker.revision()
    cursor: Any = BlockingCursor(url(worker))
    for wrong in (
        lambda: cursor.next(5),
        lambda: cursor.reset(if_position=5),
        lambda: cursor.next(key=5),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert worker.revision() == before
