"""
An upgrade: the code is replaced below a running supervisor of version 1.0.0.

A package manager does so, and C{git pull}: files change on disk, and the supervisor goes
on with the code that it read at its start.  From then on it starts workers of the new
version.  So the interface between a supervisor of version 1.0.0 and a new worker stays as
it is, for as long as an upgrade from that version is promised:

- Command line: C{python -m pexservice --reactor=uvloop --nodaemon --pidfile=
  pexservice-worker}, then the options of version 1.0.0 with their values of the command
  line or of the configuration file, without C{--listen}.  C{--reactor=uvloop} is left out
  where uvloop is not installed.  Then C{--supervisor 3 --scoreboard 4}, C{--listen fd:N}
  for each listening socket, with N from 5 on, and C{--quick-check}, unless a worker has
  ended by SIGBUS, SIGSEGV, SIGABRT or status 74.
- Standard input is a pipe to which nothing is written.  Each line of standard output and
  error is logged; a prefix C{<N>} is its syslog priority; with C{--log-format json} it is
  an object with C{event} and C{fields}.
- Descriptor 3 is the writing end of a pipe.  The worker writes lines C{NAME=VALUE}:
  C{READY=1} when it serves, C{STATUS=standing by} when it waits for the store,
  C{STOPPING=1} when it stops, C{STATUS=...}, C{WATCHDOG=1} and C{EXTEND_TIMEOUT_USEC=N}.
  It repeats those that still hold with each C{WATCHDOG=1}.  The pipe breaks when the
  supervisor has ended, and then the worker ends.
- Descriptor 4 is the scoreboard: a memfd named C{pexservice-scoreboard}.  The supervisor
  writes one record at its beginning, little-endian: C{pexscor4}; five 64-bit counts
  (failovers, standbys, standbys wanted, reloads, outcome of the last reload); two names of
  16 bytes (the active worker, the one before it); two 64-bit times (milliseconds since
  1970, microseconds); seven 64-bit counts of restarts by reason; a note of 512 bytes; then
  the CRC-32 of these.  C{pexctl reload} of the new version reads it too.
- Environment: as the supervisor's, without C{LISTEN_*}, C{NOTIFY_SOCKET} and
  C{WATCHDOG_*}; then C{WATCHDOG_USEC}, the time of silence after which the worker gets
  SIGABRT, and SIGKILL a second later.  Before its first message it has 60 seconds.
- At SIGHUP the supervisor reads the configuration file, which must have no option that
  version 1.0.0 does not know.  It starts one more worker and waits 15 seconds until that
  one serves or stands by.  Then it stops the old ones by SIGTERM, those that stand by
  first, and starts as many as are missing.  A worker has 7 seconds to stop.
- A worker that ends with status 78 ends the supervisor with 78; one that ends with 64 ends
  it with 64 if no other worker is up.  After any other end the supervisor starts another
  worker, at once if the last one lived for a second, else after a delay that doubles from
  0.05 to 5 seconds until one serves.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.clients import kept, load, until_acknowledged
from tests.support.daemon import (
    TIMEOUT_SECONDS,
    WORKER,
    Daemon,
    poll_attempts,
    wait_until,
)
from tests.support.forms import amount
from tests.support.installation import Installation
from tests.unit.test_metrics import samples

#: A process with the new code writes this line first.
MARK = "this is the new version"
FIRST_LINE = f"import os; os.write(1, b'{MARK}\\n')"

#: The supervisor reports to systemd every 5 seconds.  With this value in seconds, it kills
#: a new worker that sends no heartbeat before a test has received two reports.
WATCHDOG = "5"

#: The number of clients, of which every other one uses keys, and the number of their steps
#: after which a test assumes that the service continues.
CLIENTS = amount(short=4, long=8)
MORE = amount(short=200, long=1000)

#: Most of a test waits for workers that start, and a full load would slow them down.
PAUSE = amount(short=0.005, long=0.0)

KILLS = amount(short=2, long=3)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """
    Provide an installation of the last release.
    """
    installation = Installation(tmp_path / "installed")
    installation.install_release()
    return installation


@contextmanager
def service(tmp_path: Path, installation: Installation, *more: str) -> Iterator[Daemon]:
    """
    Run the installed service.
    """
    (tmp_path / "run").mkdir()
    options = ("--journal", "10000000", "--watchdog", WATCHDOG, *more)
    with Daemon(tmp_path / "run", *options, python=installation.python) as daemon:
        yield daemon
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert "silent" not in log


@pytest.fixture
def systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """
    Provide a service manager: a function that returns the next message from the service.
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
            listening.settimeout(TIMEOUT_SECONDS)
            return listening.recv(4096).decode().splitlines()

        yield hear


def new_workers(daemon: Daemon) -> set[str]:
    """
    Return the names of the workers that run the new code.
    """
    return set(re.findall(rf"(worker-\d+) \w+: {MARK}", daemon.log.read_text()))


def scraped(daemon: Daemon, **expected: float) -> None:
    """
    Wait until C{/metrics} has the expected values, which come from the supervisor.
    """
    values: dict[str, float] = {}
    for _ in poll_attempts():
        values = samples(daemon.request("/metrics")[1])
        if {name: values[f"pexservice_{name}"] for name in expected} == expected:
            break
    else:
        raise AssertionError((expected, values))
    reasons = ("silent", "store_failed", "cannot_start", "failed")
    for reason in reasons:
        assert values[f"pexservice_worker_restarts_total,reason={reason}"] == 0


def test_reload_brings_the_new_code_and_no_client_notices(
    tmp_path: Path, systemd: Callable[[], list[str]], installation: Installation
) -> None:
    """
    The new worker sends heartbeats, also for systemd, and knows the supervisor's counters.

    It ends with its supervisor, and leaves the store to the next service.
    """
    with service(tmp_path, installation, "--standby", "0") as daemon:
        with load(daemon, CLIENTS, pause_seconds=PAUSE) as clients:
            until_acknowledged(clients, MORE)
            installation.upgrade(FIRST_LINE)
            daemon.reload()
            (new_worker,) = new_workers(daemon)
            wait_until(lambda: daemon.active_worker()[0] == new_worker, "it serves")
            until_acknowledged(clients, MORE)
        # No step is lost, no connection refused, and none ended without a response.
        kept(daemon, clients)
        assert [client.broken for client in clients] == [0] * len(clients)
        heard = [systemd(), systemd()]
        assert any("WATCHDOG=1" in message for message in heard)
        scraped(daemon, standby_workers=0, standby_workers_wanted=0, failovers_total=0)
        values = samples(daemon.request("/metrics")[1])
        assert values["pexservice_worker_restarts_total,reason=replaced"] == 1
        revision = daemon.step()
    assert "SIGKILL" not in daemon.log.read_text()
    python = installation.python
    with Daemon(daemon.path, command=WORKER, python=python) as following:
        assert following.step() == revision + 1


def test_killed_workers_are_replaced_by_new_ones_and_no_step_is_lost(
    tmp_path: Path, installation: Installation
) -> None:
    """
    After the first kill, the standby of the release takes over: it has all its modules.

    The other standbys have the new version.  At last the store is damaged, and the
    supervisor ends with the status of the new worker that finds the damage.
    """
    with service(tmp_path, installation) as daemon:
        daemon.until_up()
        with load(daemon, CLIENTS, pause_seconds=PAUSE) as clients:
            until_acknowledged(clients, MORE)
            installation.upgrade(FIRST_LINE)
            for kills in range(1, KILLS + 1):
                name, _ = daemon.active_worker()
                daemon.kill_active_worker()
                daemon.until_logged("serves", 1 + kills)
                daemon.until_logged("stands by", 1 + kills)
                until_acknowledged(clients, MORE)
                active = daemon.active_worker()[0]
                assert active != name
                assert (active in new_workers(daemon)) == (kills > 1)
        kept(daemon, clients)
        assert daemon.log.read_text().count(MARK) == KILLS
        scraped(daemon, standby_workers=1, failovers_total=KILLS)
        os.truncate(daemon.path / "pexservice-data" / "data.mdb", 8192)
        daemon.kill_active_worker()
        assert daemon.wait() == 78


def test_todays_standby_takes_over_when_its_files_are_gone(
    tmp_path: Path, installation: Installation
) -> None:
    """
    It has loaded all its modules.  In the middle of an upgrade, files may be missing.
    """
    installation.upgrade()
    with service(tmp_path, installation) as daemon:
        daemon.until_up()
        package = installation.site / "pexservice"
        aside = installation.site / "aside"
        package.rename(aside)
        daemon.kill_active_worker()
        daemon.until_logged("serves", 2)
        for path in ("/next", "/current", "/history", "/", "/readyz", "/metrics"):
            assert daemon.request(path)[0].status == 200
        # With the files, new workers can start again.
        aside.rename(package)
        daemon.until_logged("stands by", 2)
