"""
The verbs of C{pexctl} that read or move the cursor, with a real service.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from tests.functional.test_ctl import server
from tests.support.crowd import AUTHORITY, certified
from tests.support.daemon import TIMEOUT_SECONDS, WORKER, Daemon, deadlines
from tests.support.pexctl import PEXCTL, Ended, called
from tests.support.tcp_server import serving_connections

UNREACHABLE = "http://127.0.0.1:1"


def url(daemon: Daemon, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{daemon.port}"


def pexctl(daemon: Daemon, *arguments: str) -> Ended:
    """
    Run a verb against a service, without errors.
    """
    ended = called(*arguments, "--url", url(daemon))
    assert (ended.status, ended.err) == (0, "")
    return ended


def until_printed(words: str, at: str, *arguments: str) -> Ended:
    """
    Run a verb with growing deadlines until its standard error contains C{words}.
    """
    for deadline in deadlines():
        ended = called(*arguments, "--url", at, "--deadline", str(deadline))
        if words in ended.err:
            return ended
    raise AssertionError(ended)


def begin(*arguments: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """
    Start a verb.
    """
    return subprocess.Popen(
        [*PEXCTL, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
    )


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """
    Run a verb whose standard error is a terminal.

    @return: yields the process, and a descriptor that reads the terminal.
    """
    ours, theirs = pty.openpty()
    try:
        with begin(*arguments, stderr=theirs) as process:
            os.close(theirs)
            yield process, ours
    finally:
        os.close(ours)


def interrupt(
    process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT
) -> tuple[int, str, str | None]:
    """
    Send a signal; return the exit status and the rest of both outputs.
    """
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("worker"), command=WORKER) as daemon:
        yield daemon


def test_each_step_prints_its_value_or_the_state_as_an_object(worker: Daemon) -> None:
    first = worker.step("reset")
    for verb, value in (("next", 1), ("next", 1), ("next", 2), ("previous", 1)):
        assert pexctl(worker, verb).out == f"{value}\n"
    assert pexctl(worker, "current").out == "1\n"
    present = str(first + 4)
    moved = pexctl(worker, "next", "--json", "--key", "k", "--if-revision", present)
    values = {"current": "2", "previous": "1", "next": "3", "replayed": False}
    cursor = {"revision": first + 5, "position": 3}
    assert moved.json == {"outcome": "moved", **cursor, **values}
    assert pexctl(worker, "next", "--json", "--key", "k").json["replayed"]
    options = ("--if-revision", present, "--json", "--url", url(worker))
    refused = called("reset", *options)
    assert refused.status == 1
    words = f"is at revision {first + 5}, position 3; no step was made\n"
    assert refused.err.endswith(words)
    printed = (refused.json["outcome"], refused.json["revision"])
    assert printed == ("precondition-failed", first + 5)
    before = str(first + 6)
    history = pexctl(worker, "history", "--limit", "2", "--before", before).out
    assert [line.split(maxsplit=1)[1] for line in history.splitlines()] == [
        f"revision {first + 5} next to position 3",
        f"revision {first + 4} previous to position 2",
    ]
    shown = worker.request(f"/history?limit=2&before={before}")[1]
    assert history == shown.decode()
    objects = pexctl(worker, "history", "--json", "--limit", "2").out.splitlines()
    revisions = [json.loads(line)["revision"] for line in objects]
    assert revisions == [first + 5, first + 4]


def test_empty_key_is_refused_and_makes_no_step() -> None:
    """
    In a script, an unset shell variable would otherwise cause a new key for each attempt.
    """
    refused = called("next", "--key", "", "--url", UNREACHABLE)
    assert refused.status == 2
    assert "a key must have 1 to 255 visible ASCII characters" in refused.err


def test_service_that_cannot_be_reached_ends_reads_and_unsent_steps_with_69() -> None:
    read = until_printed("Connection refused", UNREACHABLE, "current")
    assert (read.status, read.out) == (69, "")
    step = until_printed("next was not made by this call: ", UNREACHABLE, "next", "--json")
    assert (step.status, step.json["outcome"]) == (69, "unreachable")
    assert step.json["key"]
    # An earlier call with this key may have made the step.
    words = "; an earlier call with this key may have made it, so repeat it"
    repeated = until_printed(words, UNREACHABLE, "next", "--key", "k", "--json")
    assert (repeated.status, repeated.json["outcome"]) == (75, "outcome-unknown")
    wrong = called("current", env={"PEXSERVICE_URL": "gopher://x"})
    assert wrong.status == 2
    assert wrong.err.startswith("pexctl: PEXSERVICE_URL: 'gopher://x' is not a base URL")


def test_step_that_may_have_arrived_ends_with_75_and_names_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        step = until_printed("it is unknown whether next was made: ", at, "next", "--json")
    assert (step.status, step.json["outcome"]) == (75, "outcome-unknown")
    assert step.json["key"] in step.err


def test_one_of_several_servers_is_enough(worker: Daemon) -> None:
    worker.step("reset")
    both = f"{UNREACHABLE} {url(worker)}"
    assert called("next", env={"PEXSERVICE_URL": both}).out == "1\n"
    options = ("--url", UNREACHABLE, "--url", url(worker))
    assert called("next", *options, env={"PEXSERVICE_URL": UNREACHABLE}).out == "1\n"


def test_response_of_another_service_ends_a_read_with_69_and_a_step_with_75() -> None:
    """
    The other service may be a proxy, and the service behind it may have made the step.
    """
    with server({"/current": (200, b"<html>"), "/next": (200, b"<html>")}) as at:
        read = called("current", "--url", at)
        step = called("next", "--json", "--key", "k", "--url", at)
    assert read.status == 69
    assert read.err.startswith(f"pexctl: {at}/current: expected application/json")
    assert (step.status, step.json["outcome"]) == (75, "outcome-unknown")
    assert "it is unknown whether the step was made (key k)" in step.err


def test_token_comes_from_a_file_or_the_environment_and_is_not_shown(
    tmp_path: Path,
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# mine\nsecret\nanother\n")
    with Daemon(tmp_path, "--token-file", "tokens", command=WORKER) as daemon:
        step = ("next", "--json", "--url", url(daemon))
        refused = called(*step)
        assert (refused.status, refused.json["problem"]) == (1, "unauthorized")
        wrong = called(*step, env={"PEXSERVICE_TOKEN": "geheim"})
        assert "this token may not move the cursor" in wrong.err
        assert "geheim" not in wrong.err
        assert called(*step, "--token-file", str(tokens)).status == 0
        assert called(*step, env={"PEXSERVICE_TOKEN": "another"}).status == 0
        none = called(*step, "--token-file", f"{tmp_path}/none")
        assert none.status == 2
        assert none.err.endswith("/none: No such file or directory\n")


def test_every_verb_trusts_the_authority_in_a_file(tmp_path: Path) -> None:
    """
    Without TLS, C{status} suggests https.
    """
    options, _ = certified(tmp_path)
    with Daemon(tmp_path, *options, command=WORKER) as daemon:
        at = ("--url", url(daemon, "https"))
        for verb in (("status",), ("next",), ("load", "--seconds", "0.1")):
            trusted = called(*verb, *at, "--ca-file", str(tmp_path / AUTHORITY))
            assert (trusted.status, trusted.err) == (0, "")
            refused = called(*verb, *at)
            assert refused.status == 69
            assert "certificate" in refused.err
        plain = called("status", "--url", url(daemon))
        assert plain.status == 69
        assert f"if it speaks TLS, use {url(daemon, 'https')}" in plain.err


def test_watch_prints_a_line_for_each_move_until_ctrl_c(worker: Daemon) -> None:
    revision = worker.step("reset")
    with begin("watch", "--url", url(worker)) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"revision {revision} position 0: 0\n"
        worker.step()
        assert watching.stdout.readline() == f"revision {revision + 1} position 1: 1\n"
        assert interrupt(watching) == (130, "", "")


def test_watch_says_why_it_waits_without_a_terminal() -> None:
    with begin("watch", "--url", UNREACHABLE) as watching:
        assert watching.stderr is not None
        line = watching.stderr.readline()
        assert interrupt(watching) == (130, "", "")
    assert line.startswith(f"pexctl: {UNREACHABLE}/current: Connection refused")
    assert line.endswith("; retrying\n")


@pytest.mark.parametrize(
    ("number", "status", "verb"),
    [
        (signal.SIGINT, 130, ("next", "--json", "--deadline", "60")),
        (signal.SIGTERM, 143, ("next", "--json", "--deadline", "60")),
        (signal.SIGINT, 130, ("watch",)),
    ],
)
def test_signal_ends_a_waiting_call_at_once_and_a_step_names_its_key(
    number: signal.Signals, status: int, verb: tuple[str, ...]
) -> None:
    """
    Background commands of a shell ignore SIGINT; C{pexctl} must end all the same.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(TIMEOUT_SECONDS)
        at = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            calling = begin(*verb, "--url", at)
        finally:
            signal.signal(signal.SIGINT, before)
        with calling:
            connection, _ = silent.accept()
            with connection:
                request = connection.recv(65536).decode()
                ended, out, errors = interrupt(calling, number)
    assert ended == status
    if verb[0] != "next":
        assert (out, errors) == ("", "")
        return
    (key,) = re.findall(r"(?i)\r\nidempotency-key: (\S+)", request)
    printed = json.loads(out)
    assert (printed["outcome"], printed["key"]) == ("outcome-unknown", key)
    assert errors == (
        "pexctl: interrupted: it is unknown whether next was made; to find out, repeat"
        f" it with --key {key}\n"
    )


def read_line(terminal: int) -> str:
    """
    Read a line from a terminal, which may give a part of it first.
    """
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(terminal, 4096)
    return line.decode()


def test_step_on_a_terminal_reports_only_the_first_of_its_failed_attempts() -> None:
    options = ("--url", UNREACHABLE, "--deadline", "0.5")
    first, last = called("next", *options, terminal=True).err.splitlines()
    assert first.startswith(f"pexctl: {UNREACHABLE}/next: Connection refused")
    assert first.endswith("; retrying")
    assert "next was not made by this call" in last


@pytest.mark.needs("pseudo-terminal")
@pytest.mark.parametrize("is_repeated", [False, True])
def test_interrupted_step_that_the_service_has_refused_so_far_was_not_made(
    *,
    is_repeated: bool,
) -> None:
    """
    With C{--key}, the outcome is unknown: an earlier call may have made the step.
    """
    problem = {"type": "urn:problem-type:pexservice:too-many-requests", "detail": ""}
    body = json.dumps(problem).encode()
    refusal = (
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n"
        b"Retry-After: 60\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )

    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(refusal)

    key = ["--key", "K"] if is_repeated else []
    with serving_connections(refuse) as port:
        options = ("--json", "--url", f"127.0.0.1:{port}", "--deadline", "120", *key)
        with on_a_terminal("next", *options) as (calling, terminal):
            assert read_line(terminal).endswith("; retrying\r\n")
            status, printed, _ = interrupt(calling)
            rest = read_line(terminal)
    assert status == 130
    if is_repeated:
        assert json.loads(printed)["outcome"] == "outcome-unknown"
        assert "it is unknown whether next was made; to find out, repeat it with" in rest
    else:
        assert json.loads(printed)["outcome"] == "unreachable"
        assert rest == "pexctl: interrupted: next was not made\r\n"


def read_bar(terminal: int) -> str:
    """
    Read from a terminal until it shows a progress bar.
    """
    drawn = ""
    while " steps" not in drawn:
        drawn += os.read(terminal, 4096).decode()
    return drawn


@pytest.mark.needs("pseudo-terminal")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_ends_a_load_which_removes_its_bar_and_prints_its_counts(
    worker: Daemon, number: signal.Signals, status: int
) -> None:
    options = ("--seconds", "60", "--url", url(worker))
    with on_a_terminal("load", *options) as (loading, terminal):
        drawn = read_bar(terminal)
        assert interrupt(loading, number) == (status, "", None)
        # Reading a terminal that no process has open fails.
        with suppress(OSError):
            while data := os.read(terminal, 4096).decode():
                drawn += data
    bars, _, report = drawn.partition("pexctl: interrupted: ")
    assert re.fullmatch(r"(\r\[[#.]{30}\] +\d+ % \d+ steps *\r)+\r +\r", bars)
    assert re.match(r"\d+ steps in \d+\.\d s: ", report)
    assert "outcome unknown: 10\r\nnot compared with the history\r\n" in report


def test_closed_pipe_is_no_error_and_a_full_disk_is_one_line(worker: Daemon) -> None:
    def print_into(output: IO[str]) -> tuple[int, str]:
        ended = subprocess.run(
            [*PEXCTL, "watch", "--url", url(worker)],
            check=False,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        return ended.returncode, ended.stderr

    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert print_into(pipe) == (141, "")
    with Path("/dev/full").open("w") as full:
        message = "pexctl: standard output: No space left on device\n"
        assert print_into(full) == (1, message)


@pytest.mark.parametrize("full_stream", ["stdout", "stderr"])
def test_failure_is_printed_although_the_disk_under_one_stream_is_full(
    full_stream: str,
) -> None:
    """
    Otherwise a script would lose the key of a step whose outcome is unknown.
    """
    options = ("--json", "--key", "k", "--url", "localhost:1", "--deadline", "0.5")
    with Path("/dev/full").open("w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ended = subprocess.run(
            [*PEXCTL, "next", *options],
            check=False,
            text=True,
            timeout=TIMEOUT_SECONDS,
            **{**streams, full_stream: full},
        )
    assert ended.returncode == 75
    (line,) = (ended.stdout or ended.stderr).splitlines()
    assert "an earlier call with this key may have made it, so repeat it" in line
    assert ended.stdout is None or json.loads(line)["key"] == "k"


def test_load_reports_as_many_steps_as_the_service_has_made(worker: Daemon) -> None:
    before = worker.revision()
    report = pexctl(worker, "load", "--seconds", "0.2", "--connections", "4", "--json").json
    assert (report["lost"], report["doubled"], report["unknown"]) == (0, 0, 0)
    assert report["answered"] == worker.revision() - before > 0


@pytest.mark.needs("pseudo-terminal")
def test_load_loses_and_doubles_no_step_while_a_worker_is_killed(tmp_path: Path) -> None:
    """
    On a terminal, C{pexctl load} draws a progress bar.
    """
    with Daemon(tmp_path) as daemon:
        daemon.until_up()
        options = ("--seconds", "1", "--url", url(daemon))
        with on_a_terminal("load", *options) as (loading, terminal):
            drawn = read_bar(terminal)
            daemon.kill_active_worker()
            out, _ = loading.communicate(timeout=TIMEOUT_SECONDS)
    assert re.match(r"\r\[[#.]{30}\] +\d+ % \d+ steps", drawn)
    assert loading.returncode == 0
    assert out.endswith("according to the history: lost 0, doubled 0\n")
