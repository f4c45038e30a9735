"""
Start and stop the service, and check the messages of starts that fail.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE
from tests.support.daemon import (
    LOOPBACK,
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    background,
    exchange_on_unix_socket,
    poll_attempts,
    read_all,
    read_response,
    run,
    twistd,
    wait_until,
)
from tests.support.pexctl import pexctl
from tests.support.stores import make_store

STORE = "pexservice-data"

COMMANDS = ["pexservice", WORKER]


def value(daemon: Daemon, path: str) -> bytes:
    """
    Return the body of the response to a GET.
    """
    return daemon.request(path)[1]


def test_service_continues_where_it_stopped(tmp_path: Path) -> None:
    """
    Only the first start creates a store.  It logs a warning, and the store is private.

    Without C{--access-log}, no request is logged.
    """
    store = tmp_path / STORE
    with Daemon(tmp_path, "--standby", "0") as daemon:
        assert f"warn: created a new store in {store}" in daemon.log.read_text()
        assert stat.S_IMODE(store.stat().st_mode) == 0o700
        assert stat.S_IMODE((store / DATA_FILE).stat().st_mode) == 0o600
        steps = [value(daemon, "/next") for _ in range(8)]
        assert steps == [b"%d\n" % n for n in (1, 1, 2, 3, 5, 8, 13, 21)]
    with Daemon(tmp_path, command=WORKER) as daemon:
        assert value(daemon, "/current") == b"21\n"
        assert value(daemon, "/previous") == b"13\n"
        assert value(daemon, "/history").count(b"\n") == 9
    log = daemon.log.read_text()
    assert log.count("created a new store") == 1
    assert "/current" not in log


def test_twistd_lists_the_commands_and_shows_their_help(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")
    assert all(f"    {command} " in shown.stdout for command in COMMANDS)
    own = run(tmp_path, "pexservice", "--help")
    assert (own.returncode, own.stderr) == (0, "")
    assert "--synchronous-commit on|off" in own.stdout
    output = run(tmp_path, WORKER, "--version").stdout
    assert output == f"pexservice {version('pexservice')}\n"


def test_help_that_is_not_read_to_its_end(tmp_path: Path) -> None:
    """
    It causes no error if the reader closes the pipe early.
    """
    help_command = twistd("pexservice", "--help")
    with subprocess.Popen(
        help_command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ended:
        assert ended.stdout is not None
        ended.stdout.close()
        assert ended.stderr is not None
        assert ended.stderr.read() == b""
    assert ended.returncode == 0


def test_all_options_together_do_what_their_help_says(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret\n")
    (tmp_path / "tokens").chmod(0o600)
    with Daemon(
        tmp_path,
        *("--store", "lmdb:elsewhere", "--journal", "5", "--token-file", "tokens"),
        *("--cors-origin", "https://example.org", "--access-log", "access.log"),
        *("--synchronous-commit", "off", "--max-connections", "10"),
        *("--listen", LOOPBACK, "--listen", "unix:socket", "--standby", "0"),
    ) as daemon:
        assert daemon.request("/next")[0].status == 401
        headers = {"Authorization": "Bearer secret", "Origin": "https://example.org"}
        for _ in range(8):
            answer, _ = daemon.request("/next", "POST", headers)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
        request = b"GET /current HTTP/1.0\r\n\r\n"
        response = exchange_on_unix_socket(tmp_path / "socket", request)
        assert response.endswith(b"\r\n\r\n21\n")
        # With asynchronous commit, the history has a step only after its response.
        for _ in poll_attempts():
            if value(daemon, "/history").count(b"\n") == 5:
                break
        assert (tmp_path / "elsewhere" / DATA_FILE).exists()
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert '"POST /next HTTP/1.1" 200 3 "-" "-"' in lines[8]
    assert '"GET /next HTTP/1.1" 401 ' in lines[0]


def test_hyphen_writes_the_access_log_into_the_daemons_log_without_values(
    tmp_path: Path,
) -> None:
    """
    No log contains a value of the sequence, which may have many digits.
    """
    with Daemon(tmp_path, "--access-log", "-", command=WORKER) as daemon:
        for _ in range(100):
            answer = value(daemon, "/next")
    log = daemon.log.read_bytes()
    assert b'"GET /next HTTP/1.1" 200 2' in log
    assert answer == b"354224848179261915075\n"
    assert answer.strip() not in log


def test_sighup_opens_a_new_access_log_and_loses_no_line(tmp_path: Path) -> None:
    """
    Each line is in exactly one of the two files.
    """
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    with Daemon(tmp_path, "--access-log", log.name, command=WORKER) as daemon:
        value(daemon, "/current")
        log.rename(moved)
        value(daemon, "/history")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(log.exists, "the access log was opened again")
        value(daemon, "/livez")
    logged_paths = [
        [line.split()[6] for line in file.read_text().splitlines()] for file in (moved, log)
    ]
    assert logged_paths == [["/current", "/history"], ["/livez"]]


def refused(path: Path, *options: str, status: int = 1, command: str = "pexservice") -> str:
    """
    Start a service that cannot start, and return its line on standard error.
    """
    ended = run(path, "-n", "--pidfile=", command, *options)
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


def test_wrong_option_and_file_that_cannot_be_opened_have_their_own_status(
    tmp_path: Path,
) -> None:
    """
    No restart repairs them.  The service creates no file.
    """
    line = refused(tmp_path, "--journal", "0", status=64)
    assert line.startswith("pexservice: --journal 0: must be from 1 to")
    options = ("--listen", LOOPBACK, "--access-log", "missing/file")
    line = refused(tmp_path, *options, status=64)
    assert line.startswith("pexservice: the access log missing/file: No such file")
    assert list(tmp_path.iterdir()) == []


def test_address_in_use_and_address_of_another_machine_are_named(tmp_path: Path) -> None:
    """
    In the foreground, that is one line; a daemon writes the line to its log, too.

    The message about an address in use names the option that changes it.  A daemon that is
    refused leaves no pid file, and its exit status is 1.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"tcp:{server.getsockname()[1]}:interface=127.0.0.1"
        line = refused(tmp_path, "--listen", listen)
        ended = run(tmp_path, "pexservice", "--listen", listen)
    reason = f"cannot listen on {listen}: Address already in use"
    advice = "stop the program that uses it, or choose another one with --listen"
    assert line == f"pexservice: {reason}; {advice}"
    assert (ended.returncode, ended.stderr) == (1, f"{line}\n")
    (logged,) = (tmp_path / "twistd.log").read_text().splitlines()
    assert f" supervisor critical: {reason}" in logged
    assert not (tmp_path / "twistd.pid").exists()
    foreign = "tcp:0:interface=192.0.2.1"
    line = refused(tmp_path, "--listen", LOOPBACK, "--listen", foreign)
    assert (
        line == f"pexservice: cannot listen on {foreign}: Cannot assign requested address"
    )


def test_store_in_use_is_refused_and_its_owner_undisturbed(tmp_path: Path) -> None:
    """
    C{pexctl check} lists what is in use, succeeds and creates no file.
    """
    with Daemon(tmp_path, "--standby", "0") as daemon:
        files = sorted(tmp_path.iterdir())
        address = f"tcp:{daemon.port}:interface=127.0.0.1"
        in_use = f"well; in use now: {address}, the store {tmp_path}/{STORE}"
        assert pexctl(tmp_path, "check", "--listen", address) == (0, in_use)
        assert sorted(tmp_path.iterdir()) == files
        line = refused(tmp_path, "--listen", LOOPBACK)
        owner = daemon.active_worker()[1]
        assert line == (
            f"pexservice: the store {tmp_path}/{STORE} is in use by process {owner}, whose"
            f" supervisor is process {daemon.process.pid}; stop it, or choose another store"
            " with --store"
        )
        assert value(daemon, "/next") == b"1\n"


def test_damaged_store_ends_with_status_78_and_stays_unchanged(tmp_path: Path) -> None:
    make_store(tmp_path / STORE, 1)
    data = tmp_path / STORE / DATA_FILE
    data.write_bytes(data.read_bytes()[:8192])
    before = data.read_bytes()
    line = refused(tmp_path, "--listen", LOOPBACK, status=78, command=WORKER)
    assert line.startswith(f"pexservice: the store {tmp_path}/{STORE} is damaged: ")
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("listen", "family", "address"),
    [
        ("systemd:domain=INET:index=0", socket.AF_INET, ("127.0.0.1", 0)),
        # The kernel chooses an abstract name, as in ListenStream=@name of a socket unit.
        ("systemd:all", socket.AF_UNIX, ""),
    ],
)
def test_socket_from_systemd_is_served_after_a_kill_too_and_left_open(
    tmp_path: Path, listen: str, family: int, address: tuple[str, int] | str
) -> None:
    """
    C{pexctl status --process} finds the socket, although no option contains its address.
    """
    options = ("--listen", listen, "--standby", "0")
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        with Daemon(tmp_path, *options, inherited=server) as daemon:
            daemon.kill_workers()
            asked = ("--process", str(daemon.process.pid), "--timeout", "60")
            status = pexctl(tmp_path, "status", *asked)
            assert status[1].startswith("ready: revision 0, position 0")
        # A client that connects now waits for the next service.
        with socket.socket(family) as client:
            client.connect(server.getsockname())
    assert "Traceback" not in daemon.log.read_text()


def test_daemon_has_pid_file_and_log_and_refuses_a_second_start_in_its_directory(
    tmp_path: Path,
) -> None:
    """
    The message says what runs and how to stop it.

    A pid file of a process that no longer runs is removed without a critical message.
    """
    socket_path = tmp_path / "socket"
    (tmp_path / "twistd.pid").write_text("4194304")
    with background(tmp_path, "--listen", "unix:socket", "--standby", "0") as pid:
        wait_until(socket_path.exists, "the service listens")
        response = exchange_on_unix_socket(socket_path, b"POST /next HTTP/1.0\r\n\r\n")
        assert response.endswith(b"\r\n\r\n1\n")
        status, line = pexctl(tmp_path, "status", "--process", str(pid))
        assert (status, line.startswith("ready: revision 1, position 1")) == (0, True)
        again = run(tmp_path, "pexservice", "--listen", "unix:socket")
        assert again.returncode == 1
        (line,) = again.stderr.splitlines()
        assert f"process {pid} runs here already (" in line
        assert f"stop it with kill {pid}, remove {tmp_path / 'twistd.pid'} if" in line
        assert line.endswith(
            "or start another service in another directory, with another --listen"
        )
    assert not (tmp_path / "twistd.pid").exists()
    log = (tmp_path / "twistd.log").read_text()
    for words in ("the cursor is at", "Server Shut Down"):
        assert words in log
    for words in ("Traceback", "stale", "critical"):
        assert words not in log


#: A directory whose path is longer than the 100 bytes after which twistd cuts a reason.
LONG = "{path}/" + "long" * 50


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("--pidfile", "{path}/missing/pid", "pexservice"),
            "the pid file {path}/missing/pid cannot be written: ",
        ),
        (
            ("--logfile", "{path}/missing/log", "pexservice"),
            "the log file {path}/missing/log cannot be written: No such file or directory",
        ),
        (("--logfile", "-", "pexservice"), "a daemon has no standard output to log to: "),
        (
            ("pexservice", "--store", f"lmdb:{LONG}/store"),
            f"the store {LONG}/store cannot be created: {LONG} does not exist or is not"
            " writable",
        ),
        (("pexservice", "--journal", "0"), "--journal 0: "),
    ],
)
def test_daemon_that_cannot_start_says_the_whole_reason_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """
    Its exit status is 1, also for a wrong option.
    """
    ended = run(
        tmp_path,
        *(argument.format(path=tmp_path) for argument in arguments),
        *("--listen", "unix:socket"),
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"pexservice: {reason.format(path=tmp_path)}")


def test_lock_of_a_unix_socket_names_the_process_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "socket.lock").symlink_to(str(os.getpid()))
    line = refused(tmp_path, "--listen", "unix:socket")
    assert f"process {os.getpid()} has the lock socket.lock; stop it, or" in line


def test_unix_socket_that_cannot_be_made_is_refused_and_leaves_no_lock(
    tmp_path: Path,
) -> None:
    (tmp_path / "directory").mkdir()
    line = refused(tmp_path, "--listen", "unix:directory", status=64)
    assert line.endswith("on unix:directory: directory exists, and is no socket")
    line = refused(tmp_path, "--listen", f"unix:{'x' * 108}")
    assert line.endswith("x: AF_UNIX path too long")
    assert [*tmp_path.glob("*.lock")] == []


def test_sigterm_answers_requests_in_progress(tmp_path: Path) -> None:
    """
    The service closes idle connections, and then ends by the signal.
    """
    with Daemon(tmp_path, "--standby", "0") as daemon:
        resting, begun = (
            socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_SECONDS)
            for _ in "12"
        )
        resting.sendall(b"GET /current HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_response(resting).startswith(b"HTTP/1.1 200 OK")
        begun.sendall(
            b"POST /next HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert begun.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        daemon.process.terminate()
        assert resting.recv(1000) == b""
        begun.sendall(b"x")
        answer = read_all(begun)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        assert daemon.wait() in (0, -signal.SIGTERM)
        resting.close()
        begun.close()
