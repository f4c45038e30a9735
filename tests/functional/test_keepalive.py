"""
Failures of workers: clients notice at most a pause.
"""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from pexservice.process.sd_notify import ALIVE, READY, STANDBY
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import DATA_FILE
from tests.labs.failover.lab import failover
from tests.support.clients import check, load, until_acknowledged
from tests.support.daemon import (
    TIMEOUT_SECONDS,
    Daemon,
    alive,
    children,
    exchange_on_unix_socket,
    poll_attempts,
    read_response,
    running_command,
    wait_until,
    wait_until_gone,
)
from tests.support.forms import amount
from tests.support.needs import UNSHARE_RIGHTS

STORE = "pexservice-data"

CLIENTS = amount(short=8, long=32)


@pytest.mark.parametrize(
    ("standby", "kills"), amount(short=[(1, 1)], long=[(1, 100), (0, 5)])
)
def test_kills_under_load_lose_no_step_and_refuse_no_connection(
    tmp_path: Path, standby: int, kills: int
) -> None:
    """
    No key makes its step twice.
    """
    result = failover(tmp_path, kills, standby=standby, client_count=CLIENTS)
    print(kills, "kills, pause", result.median, "median", result.percentile_99)
    assert result.refused == 0
    # At each kill, each client loses at most one connection.
    assert result.broken <= kills * CLIENTS


def test_clients_only_wait_when_workers_die_or_hang(tmp_path: Path) -> None:
    """
    The next worker knows the keys of a killed one.

    A hanging worker is gone before its successor is active, so it cannot write any more.
    At SIGABRT, which it gets first, the log gets the traceback of each thread.
    """
    with Daemon(tmp_path, "--watchdog", "2") as daemon:
        daemon.until_up()
        key = {"Idempotency-Key": "k"}
        before = daemon.step(headers=key)
        daemon.kill_workers()
        assert daemon.step(headers=key) == before
        assert daemon.step() == before + 1
        daemon.until_logged("serves", 2)
        daemon.until_logged("stands by", 2)
        name, hanging = daemon.active_worker()
        os.kill(hanging, signal.SIGSTOP)
        # The kernel has freed the lock of the dead worker, so the standby got it.
        assert daemon.step() == before + 2
        wait_until_gone(hanging)
        assert daemon.step() == before + 3
        daemon.wait_for_log(rf"no heartbeat from {name} for [0-9.]+ s; killing it")
        daemon.wait_for_log(f"{name} ended by SIGKILL")
        daemon.until_logged("serves", 3)
        name, pid = daemon.active_worker()
        os.kill(pid, signal.SIGABRT)
        daemon.wait_for_log(rf"{name} \w+: Fatal Python error: Aborted")
        daemon.wait_for_log(rf"{name} \w+: +File .*(epoll|asyncio)reactor.*")
        daemon.wait_for_log(f"{name} ended by SIGABRT")


@contextmanager
def supervised(path: Path, name: str) -> Iterator[tuple[int, int]]:
    """
    Run a worker that listens on the Unix socket C{name}, and whose supervisor is the test.

    The worker sends ten heartbeats per second.  Yield its process id, and the descriptor
    from which the test reads its messages.
    """
    reading, writing = os.pipe()
    with (path / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pexservice", "-n", "--pidfile="),
                *("pexservice-worker", "--listen", f"unix:{name}"),
                *("--supervisor", str(writing)),
            ],
            cwd=path,
            env={**os.environ, "WATCHDOG_USEC": "400000"},
            pass_fds=(writing,),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    os.close(writing)
    try:
        yield process.pid, reading
    finally:
        # A worker ends when the pipe to its supervisor is closed.
        os.close(reading)
        assert process.wait(TIMEOUT_SECONDS) in (0, -signal.SIGTERM, -signal.SIGKILL)


def hear(messages: int, line: str, times: int = 1) -> None:
    """
    Read a worker's messages until it has sent C{line} C{times} times.
    """
    received = b""
    while received.count(b"%b\n" % line.encode()) < times:
        assert select.select([messages], [], [], TIMEOUT_SECONDS)[0], received
        chunk = os.read(messages, 65536)
        assert chunk, received
        received += chunk


def test_the_lock_is_the_right_to_write(tmp_path: Path) -> None:
    """
    A stopped worker holds the lock, so its successor does not open the store.

    When the stopped worker is resumed, it continues.  It has to be dead before its
    successor becomes active.
    """
    with (
        Daemon(tmp_path, command="pexservice-worker") as first,
        supervised(tmp_path, "second") as (_, messages),
    ):
        before = first.step()
        first.process.send_signal(signal.SIGSTOP)
        hear(messages, STANDBY)
        assert not (tmp_path / "second").exists()
        first.process.send_signal(signal.SIGCONT)
        assert first.step() == before + 1
        first.process.send_signal(signal.SIGSTOP)
        first.kill()
        hear(messages, READY)
        request = b"POST /next HTTP/1.0\r\n\r\n"
        response = exchange_on_unix_socket(tmp_path / "second", request)
        assert b"\r\nPex-Revision: %d\r\n" % (before + 2) in response


def test_reloads_under_load_fail_no_request_and_lose_no_line_of_the_access_log(
    tmp_path: Path,
) -> None:
    """
    Half of the steps are made on keep-alive connections.

    The access log is renamed before each reload, as logrotate does.  Afterwards, the three
    processes hold at most 110 MiB, the sum of their proportional set sizes; in the long
    form, each worker has many more keys in memory.  At SIGTERM, the workers end before the
    supervisor.
    """
    replacements = amount(short=1, long=20)
    steps = amount(short=500, long=20_000)
    access_log = tmp_path / "access.log"
    options = ("--journal", "10000000", "--access-log", "access.log")
    with Daemon(tmp_path, *options) as daemon:
        daemon.until_up()
        old = daemon.workers()
        with load(daemon, CLIENTS) as clients:
            for number in range(replacements):
                until_acknowledged(clients)
                access_log.rename(tmp_path / f"access.log.{number}")
                daemon.reload()
            missing = steps - sum(len(client.acknowledged) for client in clients)
            until_acknowledged(clients, missing)
        acknowledged, made_steps = check(daemon, clients)
        workers = daemon.workers()
        assert not set(old) & set(workers)
        assert len(workers) == 2
        sizes = [
            int(re.findall(r"^Pss: +(\d+) kB", rollup(pid), re.MULTILINE)[0]) / 1024
            for pid in (daemon.process.pid, *workers)
        ]
        assert sum(sizes) <= amount(short=110, long=200), sizes
        assert daemon.stop() in (0, -signal.SIGTERM)
        assert [pid for pid in workers if alive(pid)] == []
    assert {(client.broken, client.refused) for client in clients} == {(0, 0)}
    assert made_steps == acknowledged >= steps
    logged = b"".join(file.read_bytes() for file in tmp_path.glob("access.log*"))
    logged_steps = re.findall(rb'"POST /\w+ HTTP/1\.1" 200 ', logged)
    assert len(logged_steps) == acknowledged


def test_lack_of_descriptors_stops_no_heartbeat(tmp_path: Path) -> None:
    """
    A client that was connected before is still served.
    """
    with (
        supervised(tmp_path, "active") as active,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        hear(active[1], READY)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(tmp_path / "active"))
        # A response shows that the connection was accepted.
        connection.sendall(b"GET /current HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_response(connection).endswith(b"\r\n0\n")
        with supervised(tmp_path, "standby") as standby:
            hear(standby[1], STANDBY)
            for pid, messages in (active, standby):
                # The first heartbeat may be sent before the event loop, which loads
                # modules.
                hear(messages, ALIVE, 3)
                _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
            for path in ("next", "current", "history", "livez", "readyz?verbose", ""):
                method = "POST" if path == "next" else "GET"
                request = f"{method} /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                connection.sendall(request.encode())
                assert read_response(connection).startswith(b"HTTP/1.1 200 OK\r\n")
            for _, messages in (active, standby):
                # Discard earlier messages.
                os.read(messages, 65536)
                hear(messages, ALIVE, 10)


@pytest.mark.parametrize(
    ("command", "number"),
    [("pexservice", signal.SIGTERM), ("pexservice-worker", signal.SIGINT)],
)
def test_further_signals_do_not_disturb_a_stop(
    tmp_path: Path, command: str, number: int
) -> None:
    daemon = Daemon(tmp_path, command=command)
    daemon.step()
    # The service waits for the request on this connection.
    waiting = daemon.connect()
    waiting.connect()
    for _ in poll_attempts():
        if daemon.process.poll() is not None:
            break
        daemon.process.send_signal(number)
    waiting.close()
    assert daemon.process.wait(TIMEOUT_SECONDS) in (0, -number)
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "ReactorNotRunning" not in log


def test_damage_met_by_a_request_ends_the_service_with_78(tmp_path: Path) -> None:
    """
    The client gets 503.  No worker takes over, and the file is not changed.
    """
    with Daemon(tmp_path) as daemon:
        daemon.until_up()
        daemon.step()
        daemon.step()
        store = tmp_path / STORE
        with lmdb.open(str(store), max_dbs=3, readonly=True) as env, env.begin() as txn:
            journal = env.open_db(b"journal", txn, create=False)
            value = txn.get(records.encode_first_item(1), db=journal)
        assert value is not None
        data = (store / DATA_FILE).read_bytes()
        damaged = data.replace(value, bytes(len(value)))
        assert damaged != data
        # This changes the file in place, which the worker has mapped.
        with (store / DATA_FILE).open("rb+") as file:
            file.write(damaged)
        answer, body = daemon.request("/history")
        assert (answer.status, b"the store is damaged" in body) == (503, True)
        assert daemon.wait() == 78
        # The standby may get the lock, and end, before the active worker has ended.
        last_line = rf"\npexservice: the store {store} (is damaged: |was found damaged)"
        assert re.search(last_line, daemon.log.read_text())
        assert daemon.count_logged("serves") == 1
        assert (store / DATA_FILE).read_bytes() == damaged


#: Starts a command as process 1 of a namespace.
AS_PROCESS_1 = (
    *("unshare", *UNSHARE_RIGHTS, "--pid", "--fork", "--mount-proc", "--kill-child"),
)


@pytest.mark.needs("namespaces")
def test_service_as_process_1_reaps_orphans_and_ends_at_sigterm(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--standby", "0", wrapper=AS_PROCESS_1) as daemon:
        (init,) = children(daemon.process.pid)
        enter = ["nsenter", f"--target={init}", "--pid", "--mount"]
        if UNSHARE_RIGHTS:
            enter += ["--user", "--preserve-credentials"]
        # Each of these leaves an orphan, which ends a moment later.
        for _ in range(5):
            subprocess.run([*enter, "sh", "-c", "sleep 0.1 &"], check=True)
        os.kill(children(init)[0], signal.SIGKILL)
        wait_until(
            lambda: [alive(pid) for pid in children(init)] == [True],
            "there is a worker and no zombie",
        )
        os.kill(init, signal.SIGTERM)
        daemon.wait()


@pytest.mark.needs("namespaces")
@pytest.mark.parametrize("wait", amount(short=[0.0, 0.2], long=[0.0, 0.05, 0.2]))
def test_process_1_ends_with_0_by_a_sigterm_during_its_start(
    tmp_path: Path, wait: float
) -> None:
    """
    The image starts the service with SIGTERM blocked until Python has its handler.

    Otherwise the kernel would discard the signal, because process 1 has no default
    handlers.
    """
    blocked = ("env", "--block-signal=TERM", sys.executable, "-m", "pexservice")
    options = ("-n", "--pidfile=", "pexservice", "--listen", "unix:socket")
    with running_command(
        [*AS_PROCESS_1, *blocked, *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: _is_env_or_python(process.pid), "process 1 blocks the signal")
        time.sleep(wait)
        os.kill(children(process.pid)[0], signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 0


def _is_env_or_python(pid: int) -> bool:
    """
    Return whether the child of C{unshare} is Python, or C{env} with SIGTERM blocked.

    Before that, the child is C{unshare} itself, which blocks the signal only for a moment.
    """
    for child in children(pid):
        command = Path(f"/proc/{child}/cmdline").read_text().split("\0")[0]
        if "python" in command:
            return True
        status = Path(f"/proc/{child}/status").read_text()
        blocked = re.search(r"SigBlk:\t([0-9a-f]+)", status)
        if blocked and int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1:
            return command == "env"
    return False


def rollup(pid: int) -> str:
    """
    Return the kernel's summary of a process's memory maps.
    """
    return Path(f"/proc/{pid}/smaps_rollup").read_text()
