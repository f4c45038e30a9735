"""
An upgrade: the code is replaced below a running supervisor of version 0.1.0.

A package manager does so, and C{git pull}: files change on disk, and the supervisor goes
on with the code that it has read at its start.  From then on it starts workers of the new
version, and the two versions have to get on with each other.  So that supervisor's side
of the conversation is fixed for as long as an upgrade from version 0.1.0 is promised.

The behaviour of a supervisor of version 0.1.0:

- It runs C{python -m pexservice --reactor=uvloop --nodaemon --pidfile=
  --logger=pexservice.supervised.observer pexservice-worker} and then, of the options of
  version 0.1.0, those that it was given, but for C{--listen}.  The first is left out
  where uvloop is not installed.
- It adds C{--listen fd:N} for each listening socket, C{--lifeline N}, C{--scoreboard N},
  and C{--quick-check} unless a worker has ended in a way that makes the store suspicious
  (SIGBUS, SIGSEGV, SIGABRT or status 74).
- The lifeline is the reading end of a pipe to which nothing is written.  The pipe ends when
  the supervisor does, and then the worker has to end.  With it, a worker waits for a store
  that another process has, instead of ending with an error.
- The scoreboard is a memfd.  The supervisor writes a record of 80 bytes at its
  beginning, little-endian: C{pexscor1}, then as 64 bits each the failovers, the
  standbys that there are and that there should be, and the restarts by reason (replaced,
  silent, store failed, cannot start, killed, failed); then the CRC-32 of these.
- Standard input is a pipe to which nothing is written.  A worker's standard output and
  error are logged line by line.
- C{NOTIFY_SOCKET} names an abstract socket for datagrams of C{NAME=VALUE} lines, whose
  sender is known by the process id that the kernel adds.  A worker says C{READY=1} when
  it serves, C{STATUS=standing by} when it waits for the store, C{STOPPING=1} when it
  stops, and with each of these, and each C{WATCHDOG=1}, those of them that still hold,
  for a datagram may be lost.
- C{WATCHDOG_USEC} is the time of silence after which a worker gets SIGABRT, and SIGKILL
  a second later.  Before its first word it has 60 seconds.
- At SIGHUP it starts one more worker and waits 15 seconds until that one serves or
  stands by.  Then it stops the old ones by SIGTERM, those that stand by first, and starts
  as many as are missing.  A worker has 7 seconds to stop.
- A worker that ends with status 78 ends the supervisor with status 78; after any other
  end there is another worker, at once if the last one lived for a second, else after a
  delay that doubles from 0.05 to 5 seconds until one serves.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.labs.failover.lab import serving, until
from tests.support.clients import Client
from tests.support.daemon import PATIENCE, Daemon, children, patiently, until_gone
from tests.support.installation import Installation, frozen
from tests.support.loads import kept, load, surprises, until_told
from tests.unit.test_metrics import samples

#: The first line that a process of the new version writes.
MARK = "this is the new version"
FIRST_LINE = f"import os; os.write(1, b'{MARK}\\n')"

#: Seconds.  A new worker that does not say in time that it is alive is killed within
#: the tests.
WATCHDOG = "2"


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """
    Provide version 0.1.0, to be replaced.
    """
    return frozen(tmp_path / "installed")


@contextmanager
def service(tmp_path: Path, installation: Installation) -> Iterator[Daemon]:
    """
    Run what is installed, with a serving worker and a standby.
    """
    (tmp_path / "run").mkdir()
    options = ("--journal", "10000000", "--watchdog", WATCHDOG)
    with Daemon(tmp_path / "run", *options, python=installation.python) as daemon:
        until(daemon, "serves", 1)
        until(daemon, "stands by", 1)
        yield daemon
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "silent" not in log


@pytest.fixture
def daemon(tmp_path: Path, installation: Installation) -> Iterator[Daemon]:
    """
    Provide a service of version 0.1.0.
    """
    with service(tmp_path, installation) as daemon:
        yield daemon


@pytest.fixture
def systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """
    Provide the service manager that started the service.

    @return: a function that returns the next message that the service manager hears.
    """
    path = tmp_path / "systemd"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "20000000")

        def hear() -> list[str]:
            listening.settimeout(0)
            with suppress(BlockingIOError):
                while listening.recv(4096):
                    pass
            listening.settimeout(PATIENCE)
            return listening.recv(4096).decode().splitlines()

        yield hear


def new_workers(daemon: Daemon) -> set[str]:
    """
    Return the names of the workers that have the new code.
    """
    return set(re.findall(rf"\[(worker-\d+)\] {MARK}", daemon.log.read_text()))


def until_new(daemon: Daemon) -> None:
    """
    Wait until a worker with the new code serves.
    """
    for _ in patiently():
        if serving(daemon)[0] in new_workers(daemon):
            return
    raise AssertionError(daemon.log.read_text())


def scraped(daemon: Daemon, **expected: float) -> None:
    """
    Wait until C{/metrics} has the expected values.

    The worker knows them from the supervisor.
    """
    found: dict[str, float] = {}
    for _ in patiently():
        found = samples(daemon.ask("/metrics")[1])
        if {name: found[f"pexservice_{name}"] for name in expected} == expected:
            break
    else:
        raise AssertionError((expected, found))
    reasons = ("silent", "store_failed", "cannot_start", "failed")
    for reason in reasons:
        assert found[f"pexservice_worker_restarts_total,reason={reason}"] == 0


def none_was_cut_off(daemon: Daemon, clients: Sequence[Client]) -> None:
    """
    Check that nothing is lost, no client was refused, and no connection was cut off.

    A connection is cut off when it ends without its answer.
    """
    assert kept(daemon, clients) == sum(len(each.told) for each in clients)
    assert surprises(clients) == []
    assert [each.broken for each in clients] == [0] * len(clients)


def until_replaced(daemon: Daemon, times: int = 1) -> None:
    """
    Wait until the supervisor has replaced its workers C{times} times.
    """
    for _ in patiently():
        if daemon.log.read_text().count("the workers are replaced") == times:
            return
    raise AssertionError(daemon.log.read_text())


def test_a_reload(
    systemd: Callable[[], list[str]], daemon: Daemon, installation: Installation
) -> None:
    """
    SIGHUP brings the new code under load.

    No client is refused, no connection is cut off, and nothing is lost.  The new workers
    are heard to be alive, also by systemd, and know the supervisor's counts.  They reload
    again, and all ends at SIGTERM.
    """
    with load(daemon) as clients:
        until_told(clients)
        installation.upgrade(FIRST_LINE)
        daemon.process.send_signal(signal.SIGHUP)
        until_replaced(daemon)
        until_new(daemon)
        until_told(clients)
    none_was_cut_off(daemon, clients)
    assert len(new_workers(daemon)) == 2
    heard = [systemd(), systemd()]
    assert any("WATCHDOG=1" in each for each in heard)
    scraped(daemon, standby_workers=1, standby_workers_wanted=1, failovers_total=0)
    assert (
        samples(daemon.ask("/metrics")[1])[
            "pexservice_worker_restarts_total,reason=replaced"
        ]
        == 2
    )
    daemon.process.send_signal(signal.SIGHUP)
    until_replaced(daemon, 2)
    workers = children(daemon.process.pid)
    assert len(workers) == 2
    assert daemon.stop() in (0, -signal.SIGTERM)
    until_gone(*workers)


def test_kills(daemon: Daemon, installation: Installation) -> None:
    """
    Workers that are killed after the code was replaced lose nothing.

    The first is the standby of version 0.1.0, so that there is one worker of each version.
    Then the serving worker is killed three times.  No client is refused.
    """
    with load(daemon) as clients:
        until_told(clients)
        installation.upgrade(FIRST_LINE)
        _, serves = serving(daemon)
        (stands_by,) = set(children(daemon.process.pid)) - {serves}
        os.kill(stands_by, signal.SIGKILL)
        until(daemon, "stands by", 2)
        for kills in (1, 2, 3):
            name, pid = serving(daemon)
            os.kill(pid, signal.SIGKILL)
            until(daemon, "serves", 1 + kills)
            until(daemon, "stands by", 2 + kills)
            until_told(clients)
            assert serving(daemon)[0] != name
    kept(daemon, clients)
    assert surprises(clients) == []
    assert daemon.log.read_text().count(MARK) == 4
    scraped(daemon, standby_workers=1, failovers_total=3)


def test_a_kill_before_the_reload(daemon: Daemon, installation: Installation) -> None:
    """
    A standby of version 0.1.0 cannot take over any more when its files are gone.

    It imports the modules to listen with only when it takes over.  It ends, a new worker
    serves, no client is refused and nothing is lost.
    """
    with load(daemon) as clients:
        until_told(clients)
        installation.upgrade(FIRST_LINE)
        os.kill(serving(daemon)[1], signal.SIGKILL)
        until(daemon, "serves", 2)
        until(daemon, "stands by", 2)
        until_told(clients)
    kept(daemon, clients)
    assert surprises(clients) == []
    assert len(new_workers(daemon)) == 2


def test_the_supervisor_dies(daemon: Daemon, installation: Installation) -> None:
    """
    The new workers end with their supervisor, and leave the store to the next service.
    """
    installation.upgrade(FIRST_LINE)
    daemon.process.send_signal(signal.SIGHUP)
    until_replaced(daemon)
    workers = children(daemon.process.pid)
    assert daemon.ask("/next", "POST")[1] == b"1\n"
    daemon.process.kill()
    daemon.process.wait()
    until_gone(*workers)
    with Daemon(daemon.path, python=installation.python) as following:
        assert following.ask("/next", "POST")[0].headers["Pex-Revision"] == "2"
        assert MARK in following.log.read_text()


def test_a_damaged_store(daemon: Daemon, installation: Installation) -> None:
    """
    A new worker that finds the store damaged says so.

    The old supervisor ends with the status for a damaged store.
    """
    installation.upgrade(FIRST_LINE)
    daemon.process.send_signal(signal.SIGHUP)
    until_replaced(daemon)
    data = daemon.path / "pexservice-data" / "data.mdb"
    os.truncate(data, 8192)
    os.kill(serving(daemon)[1], signal.SIGKILL)
    assert daemon.wait() == 78


def test_a_standby_without_its_files(tmp_path: Path, installation: Installation) -> None:
    """
    Today's standby has everything in its memory that it needs to serve.

    It takes over when its files are gone, as they are in the middle of an upgrade.
    """
    installation.upgrade()
    with service(tmp_path, installation) as daemon:
        package = installation.site / "pexservice"
        aside = installation.site / "aside"
        package.rename(aside)
        _, pid = serving(daemon)
        os.kill(pid, signal.SIGKILL)
        until(daemon, "serves", 2)
        for path in ("/next", "/current", "/history", "/", "/readyz", "/metrics"):
            assert daemon.ask(path)[0].status == 200
        # With them there are workers to come again.
        aside.rename(package)
        until(daemon, "stands by", 2)
