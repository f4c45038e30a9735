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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
import trustme

from tests.functional.test_ctl import MODULE, server
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, deadlines
from tests.support.pexctl import PEXCTL
from tests.support.ports import held_ports


def pexctl(
    daemon: Daemon | str,
    *arguments: str,
    command: tuple[str, ...] = PEXCTL,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    Run a verb against a service or a URL.
    """
    at = daemon if isinstance(daemon, str) else f"http://127.0.0.1:{daemon.port}"
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PEXSERVICE_URL": at, **(env or {})},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


def until_printed(
    words: str, url: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """
    Run a verb with growing deadlines until its standard error contains C{words}.
    """
    for deadline in deadlines():
        ended = pexctl(url, *arguments, "--deadline", str(deadline))
        if words in ended.stderr:
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


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, command="pexservice-worker") as daemon:
        yield daemon


def test_each_step_prints_its_value_or_the_state_as_an_object(worker: Daemon) -> None:
    shown = [pexctl(worker, verb) for verb in ("next", "next", "next", "previous")]
    assert [(ended.returncode, ended.stdout, ended.stderr) for ended in shown] == [
        (0, value, "") for value in ("1\n", "1\n", "2\n", "1\n")
    ]
    assert pexctl(worker, "current", command=MODULE).stdout == "1\n"
    ended = pexctl(worker, "next", "--json", "--key", "k", "--if-revision", "4")
    values = {"current": "2", "previous": "1", "next": "3", "replayed": False}
    moved = {"outcome": "moved", "revision": 5, "position": 3, **values}
    assert json.loads(ended.stdout) == moved
    assert json.loads(pexctl(worker, "next", "--json", "--key", "k").stdout)["replayed"]
    refused = pexctl(worker, "reset", "--if-revision", "4", "--json")
    assert refused.returncode == 1
    assert refused.stderr.endswith("is at revision 5, position 3; no step was made\n")
    printed = json.loads(refused.stdout)
    assert (printed["outcome"], printed["revision"]) == ("precondition-failed", 5)
    assert pexctl(worker, "reset").stdout == "0\n"
    history = pexctl(worker, "history", "--limit", "2", "--before", "6")
    lines = [line.split(maxsplit=1)[1] for line in history.stdout.splitlines()]
    assert lines == ["revision 5 next to position 3", "revision 4 previous to position 2"]
    assert history.stdout == worker.request("/history?limit=2&before=6")[1].decode()
    objects = pexctl(worker, "history", "--json").stdout.splitlines()
    assert [json.loads(line)["revision"] for line in objects] == [6, 5, 4, 3, 2, 1]


def test_empty_key_is_refused_and_makes_no_step(worker: str) -> None:
    """
    In a script, an unset shell variable would otherwise cause a new key for each attempt.
    """
    refused = pexctl(worker, "next", "--key", "")
    assert refused.returncode != 0
    assert "a key must have 1 to 255 visible ASCII characters" in refused.stderr


def test_service_that_cannot_be_reached_ends_reads_and_unsent_steps_with_69() -> None:
    unreachable = "http://127.0.0.1:1"
    read = until_printed("Connection refused", unreachable, "current")
    assert (read.returncode, read.stdout) == (69, "")
    step = until_printed("next was not made by this call: ", unreachable, "next", "--json")
    assert step.returncode == 69
    printed = json.loads(step.stdout)
    assert printed["outcome"] == "unreachable"
    assert printed["key"]
    # An earlier call with this key may have made the step.
    repeated = pexctl(unreachable, "next", "--deadline", "0.5", "--key", "k", "--json")
    assert repeated.returncode == 75
    assert json.loads(repeated.stdout)["outcome"] == "outcome-unknown"
    words = "; an earlier call with this key may have made it, so repeat it"
    assert words in repeated.stderr
    wrong = pexctl("gopher://x", "current")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("pexctl: PEXSERVICE_URL: 'gopher://x' is not a base URL")


def test_step_that_may_have_arrived_ends_with_75_and_names_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        step = until_printed("it is unknown whether next was made: ", url, "next", "--json")
    assert step.returncode == 75
    printed = json.loads(step.stdout)
    assert printed["outcome"] == "outcome-unknown"
    assert printed["key"] in step.stderr


def test_one_of_several_servers_is_enough(worker: Daemon) -> None:
    unreachable, reachable = "http://127.0.0.1:1", f"http://127.0.0.1:{worker.port}"
    assert pexctl(f"{unreachable} {reachable}", "next").stdout == "1\n"
    options = ("--url", unreachable, "--url", reachable)
    assert pexctl(unreachable, "next", *options).stdout == "1\n"


def test_response_of_another_service_ends_a_read_with_69_and_a_step_with_75() -> None:
    """
    The other service may be a proxy, and the service behind it may have made the step.
    """
    with server({"/current": (200, b"<html>"), "/next": (200, b"<html>")}) as url:
        read = pexctl(url, "current")
        step = pexctl(url, "next", "--json", "--key", "k")
    assert read.returncode == 69
    assert read.stderr.startswith(f"pexctl: {url}/current: expected application/json")
    assert step.returncode == 75
    assert json.loads(step.stdout)["outcome"] == "outcome-unknown"
    assert "it is unknown whether the step was made (key k)" in step.stderr


def test_token_comes_from_a_file_or_the_environment_and_is_not_shown(
    tmp_path: Path,
) -> None:
    (tmp_path / "tokens").write_text("# mine\nsecret\nanother\n")
    with Daemon(tmp_path, "--token-file", "tokens", command="pexservice-worker") as daemon:
        refused = pexctl(daemon, "next", "--json")
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["problem"] == "unauthorized"
        wrong = pexctl(daemon, "next", env={"PEXSERVICE_TOKEN": "geheim"})
        assert "this token may not move the cursor" in wrong.stderr
        assert "geheim" not in wrong.stderr
        tokens = str(tmp_path / "tokens")
        assert pexctl(daemon, "next", "--token-file", tokens).stdout == "1\n"
        assert pexctl(daemon, "next", env={"PEXSERVICE_TOKEN": "another"}).stdout == "1\n"
        none = pexctl(daemon, "next", "--token-file", str(tmp_path / "none"))
        assert none.returncode == 2
        assert none.stderr.endswith("/none: No such file or directory\n")


def test_every_verb_trusts_the_authority_in_a_file(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ("--tls-certificate", "both.pem", "--tls-key", "both.pem")
    with Daemon(tmp_path, *options, command="pexservice-worker") as daemon:
        url = f"https://127.0.0.1:{daemon.port}"
        trusted = ("--ca-file", str(tmp_path / "ca.pem"))
        for verb in (("status",), ("next",), ("load", "--seconds", "0.5")):
            shown = pexctl(url, *verb, *trusted)
            assert (shown.returncode, shown.stderr) == (0, "")
            refused = pexctl(url, *verb)
            assert refused.returncode == 69
            assert "certificate" in refused.stderr


def test_watch_prints_a_line_for_each_move_until_ctrl_c(worker: Daemon) -> None:
    with begin("watch", "--url", f"http://127.0.0.1:{worker.port}") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "revision 0 position 0: 0\n"
        pexctl(worker, "next")
        assert watching.stdout.readline() == "revision 1 position 1: 1\n"
        assert interrupt(watching) == (130, "", "")


def test_watch_says_why_it_waits_without_a_terminal() -> None:
    with (
        held_ports(1) as (port,),
        begin("watch", "--url", f"127.0.0.1:{port}") as watching,
    ):
        assert watching.stderr is not None
        line = watching.stderr.readline()
        assert interrupt(watching) == (130, "", "")
    assert line.startswith(f"pexctl: http://127.0.0.1:{port}/current: Connection refused")
    assert line.endswith("; retrying\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
@pytest.mark.parametrize(
    "verb",
    [("next", "--json", "--deadline", "60"), ("history", "--deadline", "60"), ("watch",)],
)
def test_signal_ends_a_waiting_call_at_once_and_a_step_names_its_key(
    number: signal.Signals, status: int, verb: tuple[str, ...]
) -> None:
    """
    Background commands of a shell ignore SIGINT; C{pexctl} must end all the same.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(TIMEOUT_SECONDS)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            calling = begin(*verb, "--url", url)
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


@pytest.mark.needs("pseudo-terminal")
def test_step_on_a_terminal_reports_the_first_refusal_at_once() -> None:
    """
    The line appears once, long before the deadline.
    """
    with (
        held_ports(1) as (port,),
        on_a_terminal("next", "--url", f"127.0.0.1:{port}", "--deadline", "60") as (
            calling,
            terminal,
        ),
    ):
        line = read_line(terminal)
        url = f"http://127.0.0.1:{port}"
        assert line.startswith(f"pexctl: {url}/next: Connection refused")
        assert line.endswith("; retrying\r\n")
        assert interrupt(calling)[0] == 130
        assert read_line(terminal).startswith("pexctl: interrupted: ")


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
    key = ["--key", "K"] if is_repeated else []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_SECONDS)
        url = f"127.0.0.1:{server.getsockname()[1]}"
        options = ("--json", "--url", url, "--deadline", "120", *key)
        with on_a_terminal("next", *options) as (calling, terminal):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(refusal)
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
    url = f"http://127.0.0.1:{worker.port}"
    with on_a_terminal("load", "--seconds", "60", "--url", url) as (loading, terminal):
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


@pytest.mark.parametrize("verb", ["current", "history", "watch"])
def test_closed_pipe_is_no_error_and_a_full_disk_is_one_line(
    worker: Daemon, verb: str
) -> None:
    def print_into(output: IO[str]) -> tuple[int, str]:
        ended = subprocess.run(
            [*PEXCTL, verb, "--url", f"http://127.0.0.1:{worker.port}"],
            check=False,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        return ended.returncode, ended.stderr

    pexctl(worker, "next")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert print_into(pipe) == (141, "")
    with Path("/dev/full").open("w") as full:
        message = "pexctl: standard output: No space left on device\n"
        assert print_into(full) == (1, message)


def test_full_disk_under_standard_error_changes_neither_status_nor_output() -> None:
    """
    Otherwise a script would lose the key of a step whose outcome is unknown.
    """
    options = ("--json", "--key", "k", "--url", "localhost:1", "--deadline", "0.5")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*PEXCTL, "next", *options],
            check=False,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    assert ended.returncode == 75
    assert json.loads(ended.stdout)["key"] == "k"


@pytest.mark.needs("pseudo-terminal")
def test_load_is_compared_with_the_history_also_while_workers_are_killed(
    tmp_path: Path,
) -> None:
    """
    On a terminal, C{pexctl load} draws a progress bar.
    """
    with Daemon(tmp_path) as daemon:
        ended = pexctl(daemon, "load", "--seconds", "1", "--connections", "4", "--json")
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        printed = json.loads(ended.stdout)
        assert (printed["lost"], printed["doubled"], printed["unknown"]) == (0, 0, 0)
        revision = int(daemon.request("/current")[0].headers["Pex-Revision"])
        assert printed["answered"] == revision > 0

        url = f"http://127.0.0.1:{daemon.port}"
        with on_a_terminal("load", "--seconds", "2", "--url", url) as (loading, terminal):
            drawn = read_bar(terminal)
            log = daemon.wait_for_log("stands by")
            (*_, served) = re.findall(r"(worker-\d) serves", log)
            (*_, pid) = re.findall(rf"{served} is process (\d+)", log)
            os.kill(int(pid), signal.SIGKILL)
            out, _ = loading.communicate(timeout=TIMEOUT_SECONDS)
    assert re.match(r"\r\[[#.]{30}\] +\d+ % \d+ steps", drawn)
    assert loading.returncode == 0
    assert out.endswith("according to the history: lost 0, doubled 0\n")
