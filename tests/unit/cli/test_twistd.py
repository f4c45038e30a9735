"""
The command lines, from their arguments to the settings.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from pexservice.cli.twistd import (
    CommonOptions,
    RunningOptions,
    ServiceOptions,
    WorkerOptions,
    refuse_second_start,
)
from pexservice.process.exit_status import Misconfigured, Status
from pexservice.settings.option import command_line, options_of
from pexservice.settings.options import Settings, Supervision, WorkerSettings

#: A command line with another value for each option of a worker than its default.
OTHERS = {
    "listen": ("--listen", "tcp:1", "--listen", "unix:socket"),
    "tls_certificate": ("--tls-certificate", "chain.pem"),
    "tls_key": ("--tls-key", "key.pem"),
    "store": ("--store", "lmdb:elsewhere"),
    "no_create": ("--no-create",),
    "synchronous_commit": ("--synchronous-commit", "off"),
    "journal": ("--journal", "7"),
    "token_file": ("--token-file", "tokens"),
    "cors_origin": ("--cors-origin", "https://a.example", "--cors-origin", "http://b:8"),
    "rate_limit": ("--rate-limit", "9"),
    "max_connections": ("--max-connections", "11"),
    "trusted_proxy": ("--trusted-proxy", "::1", "--trusted-proxy", "10.0.0.1"),
    "allowed_host": ("--allowed-host", "pex.example.org", "--allowed-host", "*"),
    "post_only": ("--post-only",),
    "access_log": ("--access-log", "-x"),
    "log_format": ("--log-format", "json"),
}


def parsed(*words: str, options: type[CommonOptions] = ServiceOptions) -> Any:
    parsed_options = options()
    parsed_options.parseOptions(list(words))
    return parsed_options


def refused(*words: str, options: type[CommonOptions] = ServiceOptions) -> str:
    """
    Return the error that a wrong command line is refused with.
    """
    with (
        contextlib.redirect_stderr(io.StringIO()) as terminal,
        pytest.raises(SystemExit) as raised,
    ):
        parsed(*words, options=options)
    assert raised.value.code == Status.MISCONFIGURED
    return terminal.getvalue().removesuffix("\n")


def test_every_option_arrives_in_the_worker() -> None:
    """
    The workers' command line carries each value that is not the default.
    """
    tested = {option.attribute for option in options_of(Settings)}
    assert tested == set(OTHERS), "an option without an example here"
    words = [word for example in OTHERS.values() for word in example]
    settings = parsed(*words).settings()
    for option in options_of(Settings):
        assert getattr(settings, option.attribute) != option.default, option.name
    arrived = parsed(*command_line(settings), options=WorkerOptions).settings()
    assert arrived == WorkerSettings(**attrs.asdict(settings))


def test_options_that_a_supervisor_passes_are_for_workers_only() -> None:
    words = ("--supervisor", "5", "--scoreboard", "6", "--quick-check")
    settings = parsed(*words, options=WorkerOptions).settings()
    assert (settings.supervisor, settings.scoreboard, settings.quick_check) == (5, 6, True)
    assert "there is no option --supervisor" in refused(*words)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["--rate-limt", "1"], "no option --rate-limt (did you mean --rate-limit?)"),
        (["--rate-limit"], "--rate-limit requires a value: --rate-limit N"),
        (["--no-create=http://u:secret@h"], "option --no-create must not have an argument"),
        (["--zzz"], "there is no option --zzz;"),
        (["-p", "8082"], "option -p (did you mean --listen tcp:PORT:interface=ADDRESS?)"),
        (["--port", "8082"], "--port (did you mean --listen tcp:PORT:interface=ADDRESS?)"),
        (["--standby", "3"], "--standby 3: must be 0 or 1"),
        (["--config", ""], "--config : the value is empty"),
        (["--journal", "0"], "--journal 0: must be from 1 to 100000000"),
        (["--watchdog", "0.1"], "--watchdog 0.1: must be 0.5 seconds or more"),
        (["--store", "/srv/x"], "(did you mean lmdb:/srv/x?)"),
        (["--store", "http://h:2379"], "(did you mean etcd:http://h:2379?)"),
        (["--store", "etcd:http://u:s3,c@h:2379"], "--store etcd:http://...@h:2379: must"),
        (["--store", "http://u:s3,c@h"], "(did you mean etcd:http://...@h?)"),
        (["--store", "redis:x"], "must be lmdb:DIRECTORY or etcd:http://HOST:PORT;"),
        (["--store", "etcd:h"], "--store etcd:h: "),
        (["--store", "etcd:"], "nothing is no such address"),
        (["--store", "etcd:localhost:2379"], "localhost:2379 is no such address"),
        (["--store", "etcd:http://x:1?prefx=a"], "there is no prefx"),
        (["--store", "etcd:http://x:1?user=a"], "user and password-file go together"),
        (["--store", "etcd:http://x:1", "--standby", "1"], "1: with a store of many nodes"),
        (["--listen", "8081"], "(did you mean tcp:8081:interface=127.0.0.1?)"),
        (["--listen", "tpc:8081"], "unix:PATH or systemd:all (did you mean tcp:?)"),
        (["--listen", ":80"], "(did you mean tcp:80:interface=127.0.0.1?)"),
        (["--listen", "127.0.0.1:80"], "(did you mean tcp:80:interface=127.0.0.1?)"),
        (["--listen", "[::1]:80"], r"(did you mean tcp6:80:interface=\:\:1?)"),
        (["--listen", "/run/x"], "(did you mean unix:/run/x?)"),
        (["--listen", "x"], "must be tcp:PORT, tcp6:PORT, unix:PATH or systemd:all;"),
        (["--listen", "tcp:x"], "--listen tcp:x: the port must be a number up to 65535;"),
        (["--listen", "tcp"], "--listen tcp: the port must be a number up to 65535;"),
        (["--listen", "tcp:port=65536"], "the port must be a number up to 65535;"),
        (["--listen", "tcp:80:interfce=h"], "tcp:PORT or tcp:PORT:interface=ADDRESS;"),
        (["--listen", "systemd:domain=INET:index=7"], "systemd has passed no such socket"),
        (["--store", "lmbd:x"], "(did you mean lmdb:x?)"),
        (["--listen", "fd:3"], "--listen fd:3: only a worker accepts"),
        (["--listen", "fd:x"], "--listen fd:x: must be fd:NUMBER;"),
        (["--synchronous-commit", "yes"], "must be on or off"),
        (["--cors-origin", "https://h/"], "without a path"),
        (["--trusted-proxy", "h"], "--trusted-proxy h: must be an IP address"),
        (["--allowed-host", "h:8081"], "h:8081: must be a host name without a port, or *"),
        (["--tls-key", "k"], "--tls-certificate and --tls-key go together"),
        (["--synchronous-commit", "off", "--store", "etcd:http://h:1"], "cannot be used"),
        (["word"], "unexpected argument word: use options only"),
    ],
)
def test_wrong_command_line_is_one_line_that_names_option_and_mistake(
    words: list[str], wrong: str
) -> None:
    line = refused(*words)
    assert line.startswith("pexservice: ")
    assert wrong in line
    assert line.endswith("; see twistd pexservice --help")
    assert "\n" not in line


def test_configuration_file_has_the_options_and_the_command_line_wins(
    tmp_path: Path,
) -> None:
    """
    A list on the command line replaces that of the file.
    """
    file = tmp_path / "pexservice.toml"
    file.write_text(
        'journal = 5\nlisten = ["tcp:1", "unix:s"]\nstore = "lmdb:data"\n'
        'synchronous-commit = false\nwatchdog = 2\ntoken-file = "tokens"\nstandby = 0\n'
        'access-log = "-"\ntrusted-proxy = ["::1", "127.0.0.1"]\n'
    )
    options = parsed("--config", str(file), "--journal", "6", "--trusted-proxy", "::2")
    assert options.settings() == Settings(
        listen=("tcp:1", f"unix:{tmp_path}/s"),
        store=f"lmdb:{tmp_path}/data",
        synchronous_commit=False,
        token_file=str(tmp_path / "tokens"),
        access_log="-",
        journal=6,
        trusted_proxy=("::2",),
    )
    assert options.supervision() == Supervision(standby=0, watchdog=2.0)
    of_worker = parsed("--config", str(file), options=WorkerOptions).settings()
    assert of_worker.journal == 5


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("journal = ", "pexservice.toml: Invalid value"),
        ("jurnal = 5", "pexservice.toml: there is no jurnal (did you mean journal?)"),
        ("rate_limit = 5", "there is no rate_limit (did you mean rate-limit?)"),
        ('journal = "5"', "pexservice.toml: journal: must be a whole number"),
        ("journal = 0", "journal: must be from 1 to 100000000"),
        ("watchdog = true", "watchdog: must be a number"),
        ('synchronous-commit = "on"', "synchronous-commit: must be true or false"),
        ('listen = "tcp:1"', "listen: must be a list"),
        ("listen = [1]", "listen: must be a string in quotes"),
        ("scoreboard = 5", "there is no scoreboard"),
        ('config = "other"', "there is no config"),
        ('listen = ["fd:3"]', "--listen fd:3: only a worker accepts"),
        ('tls-key = "k"', "--tls-certificate and --tls-key go together"),
    ],
)
def test_mistake_in_the_configuration_file_names_the_file_and_the_key(
    tmp_path: Path, text: str, wrong: str
) -> None:
    file = tmp_path / "pexservice.toml"
    file.write_text(text)
    assert wrong in refused("--config", str(file))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("standby = 2", "standby: must be 0 or 1"),
        ('store = "etcd:http://h:1"\nstandby = 1', "--standby 1: with a store of many"),
        ('listen = ["fd:3"]', "--listen fd:3: only a worker accepts"),
    ],
)
def test_reload_refuses_the_same_mistakes_as_a_start(
    tmp_path: Path, text: str, wrong: str
) -> None:
    file = tmp_path / "pexservice.toml"
    file.touch()
    running = RunningOptions(parsed("--config", str(file)))
    setup = running.setup()
    file.write_text(text)
    with pytest.raises(Misconfigured, match=wrong):
        running.reread(setup, ())


def test_configuration_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary, fifo, huge = (tmp_path / name for name in ("m", "b", "fifo", "h"))
    huge.write_bytes(bytes((1 << 20) + 1))
    binary.write_bytes(b"\xff")
    os.mkfifo(fifo)
    assert f"{missing}: No such file or directory" in refused("--config", str(missing))
    wrong = f"the configuration file {binary} is not UTF-8"
    assert wrong in refused("--config", str(binary))
    assert "fifo: this is a FIFO" in refused("--config", str(fifo))
    assert "larger than 1 MiB" in refused("--config", str(huge))


def test_systemd_receives_the_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        message = refused("--rate-limt", "100")
        assert "did you mean --rate-limit?" in message
        assert systemd.recv(4096).decode() == f"STATUS={message.partition(': ')[2]}\n"


def test_pid_file_of_a_process_that_has_just_ended_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "twistd.pid"
    with subprocess.Popen(["true"]) as process:  # noqa: S607 from the path
        # Its parent has not read its status yet, so the process id still exists.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        path.write_text(f"{process.pid}\n")
        refuse_second_start(str(path))
    assert not path.exists()
