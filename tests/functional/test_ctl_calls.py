"""
The verbs of C{pexctl} that read or move the cursor, and C{status}, with a real service.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_ctl import server
from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    captured,
    deadlines,
)
from tests.support.fake_service import state
from tests.support.pexctl import PEXCTL, Ended, Terminal, called
from tests.support.tcp_server import serving_connections

UNREACHABLE = "http://127.0.0.1:1"


def url(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.port}"


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


def refusal(status: int, name: str, header: str = "") -> bytes:
    """
    Return a response with one of the service's problems.
    """
    body = json.dumps({"type": f"urn:problem-type:pexservice:{name}", "detail": ""})
    return (
        f"HTTP/1.1 {status} Refused\r\nContent-Type: application/problem+json\r\n"
        f"{header}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    listen = ("--listen", LOOPBACK, "--listen", "unix:socket")
    with Daemon(tmp_path_factory.mktemp("worker"), *listen, command=WORKER) as daemon:
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


def test_status_is_a_line_or_an_object_over_tcp_and_a_unix_socket(worker: Daemon) -> None:
    worker.step("reset")
    revision, at = worker.step(), url(worker)
    line = f"ready: revision {revision}, position 1\n"
    assert called("status", f"unix:{worker.path}/socket") == (0, line, "")
    ended = captured([sys.executable, "-m", "pexservice", "status", "--json", at])
    assert (ended.returncode, ended.stderr) == (0, "")
    facts = {"outcome": "ready", "url": at, "revision": revision, "position": 1}
    assert json.loads(ended.stdout) == facts
    message = f"pexctl: {UNREACHABLE}: Connection refused\n"
    assert called("status", UNREACHABLE) == (69, "", message)
    assert called("status", "x..y").status == 69


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


def test_moved_cursor_does_not_hide_that_an_earlier_attempt_may_make_the_step() -> None:
    moved = "Pex-Revision: 7\r\nPex-Position: 3\r\n"
    responses = iter([b"", refusal(412, "precondition-failed", moved)])

    def respond(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(next(responses))

    with serving_connections(respond) as port:
        step = ("next", "--if-revision", "5", "--json", "--url", f"127.0.0.1:{port}")
        ended = called(*step)
    printed = (ended.status, ended.json["outcome"], ended.json["revision"])
    assert printed == (75, "outcome-unknown", 7)
    assert f"the step was made (key {ended.json['key']})" in ended.err


def test_token_comes_from_a_file_or_the_environment_and_is_not_shown(
    tmp_path: Path,
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# mine\nsecret\nanother\n")
    requests: list[str] = []

    def refuse(connection: socket.socket) -> None:
        requests.append(connection.recv(65536).decode())
        connection.sendall(refusal(401, "unauthorized"))

    with serving_connections(refuse) as port:
        step = ("next", "--json", "--url", f"127.0.0.1:{port}")
        environment = {"PEXSERVICE_TOKEN": "geheim"}
        refused = called(*step, "--token-file", str(tokens), env=environment)
        called(*step, env=environment)
        called(*step)
        missing = called(*step, "--token-file", f"{tmp_path}/none")
    sent = [re.findall(r"(?i)\r\nauthorization: (.+)\r", text) for text in requests]
    assert sent == [["Bearer secret"], ["Bearer geheim"], []]
    assert (refused.status, refused.json["problem"]) == (1, "unauthorized")
    assert "secret" not in refused.out + refused.err
    assert missing.status == 2
    assert missing.err.endswith("/none: No such file or directory\n")


def test_watch_says_why_it_waits_and_prints_a_line_for_each_move_until_ctrl_c(
    worker: Daemon,
) -> None:
    revision = worker.step("reset")
    urls = ("--url", UNREACHABLE, "--url", url(worker))
    with subprocess.Popen(
        [*PEXCTL, "watch", *urls],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"revision {revision} position 0: 0\n"
        worker.step()
        assert watching.stdout.readline() == f"revision {revision + 1} position 1: 1\n"
        watching.send_signal(signal.SIGINT)
        out, errors = watching.communicate(timeout=TIMEOUT_SECONDS)
    assert (watching.returncode, out) == (130, "")
    assert errors.startswith(f"pexctl: {UNREACHABLE}/current: Connection refused")
    assert errors.endswith("; retrying\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signal_ends_a_waiting_step_at_once_which_names_its_key(
    number: signal.Signals, status: int
) -> None:
    """
    Background commands of a shell ignore SIGINT; C{pexctl} must end all the same.
    """
    requests: list[str] = []

    def interrupt(connection: socket.socket) -> None:
        requests.append(connection.recv(65536).decode())
        os.kill(os.getpid(), number)
        # The client closes the connection.
        connection.recv(1)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If nohup started the tests, SIGHUP would be ignored.
    before_hangup = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with serving_connections(interrupt) as port:
            options = ("--json", "--deadline", "60", "--url", f"127.0.0.1:{port}")
            ended = called("next", *options)
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, before_hangup)
    (key,) = re.findall(r"(?i)\r\nidempotency-key: (\S+)", "".join(requests))
    assert ended.status == status
    assert (ended.json["outcome"], ended.json["key"]) == ("outcome-unknown", key)
    assert ended.err == (
        "pexctl: interrupted: it is unknown whether next was made; to find out, repeat"
        f" it with --key {key}\n"
    )


def test_step_on_a_terminal_reports_only_the_first_of_its_failed_attempts() -> None:
    options = ("--url", UNREACHABLE, "--deadline", "0.5")
    first, last = called("next", *options, err=Terminal()).err.splitlines()
    assert first.startswith(f"pexctl: {UNREACHABLE}/next: Connection refused")
    assert first.endswith("; retrying")
    assert "next was not made by this call" in last


@pytest.mark.parametrize(
    ("key", "outcome", "words"),
    [
        ((), "unreachable", "next was not made\n"),
        (("--key", "K"), "outcome-unknown", "it is unknown whether next was made;"),
    ],
)
def test_interrupted_step_that_the_service_has_refused_so_far_was_not_made(
    key: tuple[str, ...], outcome: str, words: str
) -> None:
    """
    With C{--key}, the outcome is unknown: an earlier call may have made the step.
    """

    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(refusal(429, "too-many-requests", "Retry-After: 60\r\n"))

    with serving_connections(refuse) as port:
        options = ("--json", "--url", f"127.0.0.1:{port}", "--deadline", "120", *key)
        ended = called("next", *options, err=Terminal("; retrying", signal.SIGINT))
    assert (ended.status, ended.json["outcome"]) == (130, outcome)
    assert f"pexctl: interrupted: {words}" in ended.err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_ends_a_load_which_removes_its_bar_and_prints_its_counts(
    worker: Daemon, number: signal.Signals, status: int
) -> None:
    options = ("--seconds", "60", "--url", url(worker))
    ended = called("load", *options, err=Terminal(" steps", number))
    assert (ended.status, ended.out) == (status, "")
    bars, _, report = ended.err.partition("pexctl: interrupted: ")
    assert re.fullmatch(r"(\r\[[#.]{30}\] +\d+ % \d+ steps *\r)+\r +\r", bars)
    assert re.match(r"\d+ steps in \d+\.\d s: ", report)
    assert report.endswith("outcome unknown: 10\nnot compared with the history\n")


def print_into(stdout: Any, stderr: Any, *arguments: str) -> tuple[int, str]:
    """
    Run C{pexctl}, and return its exit status and what a stream that is a pipe received.
    """
    ended = subprocess.run(
        [*PEXCTL, *arguments],
        check=False,
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    return ended.returncode, ended.stdout or ended.stderr


def test_closed_pipe_is_no_error_and_a_full_disk_is_one_line(worker: Daemon) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        watch = ("watch", "--url", url(worker))
        assert print_into(pipe, subprocess.PIPE, *watch) == (141, "")
    with Path("/dev/full").open("w") as full:
        message = "pexctl: standard output: No space left on device\n"
        assert print_into(full, subprocess.PIPE, "version") == (1, message)


def test_failure_is_printed_although_the_disk_under_one_stream_is_full(
    tmp_path: Path,
) -> None:
    """
    Otherwise a script would lose the key of a step whose outcome is unknown.
    """
    at = f"unix:{tmp_path}/socket"
    failing = ("status", "--json", "--url", at)
    message = f"{at}: No such file or directory"
    with Path("/dev/full").open("w") as full:
        line = f"pexctl: {message}\n"
        assert print_into(full, subprocess.PIPE, *failing) == (69, line)
        status, printed = print_into(subprocess.PIPE, full, *failing)
    assert (status, json.loads(printed)["error"]) == (69, message)


def test_load_reports_as_many_steps_as_the_service_has_made(worker: Daemon) -> None:
    before = worker.revision()
    report = pexctl(worker, "load", "--seconds", "0.2", "--connections", "4", "--json").json
    assert (report["lost"], report["doubled"], report["unknown"]) == (0, 0, 0)
    assert report["answered"] == worker.revision() - before > 0


def test_load_whose_service_fails_before_the_comparison_still_prints_its_counts() -> None:
    revisions = itertools.count()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"

    def respond(connection: socket.socket) -> None:
        if b"/history" not in connection.recv(65536):
            connection.sendall(head + state(next(revisions), 5))

    with serving_connections(respond) as port:
        options = ("--json", "--seconds", "0.2", "--deadline", "0.5")
        ended = called("load", *options, "--url", f"127.0.0.1:{port}")
    assert (ended.status, ended.json["outcome"]) == (1, "failed")
    assert ended.json["answered"] > 0
    assert "/history?limit=" in ended.err
    assert "not compared with the history" in ended.err
