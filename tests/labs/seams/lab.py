"""
Random operations on the processes, the files and the store of a service under load.

Each operation disturbs the service and is undone, and the service must recover by itself.

C{python -m tests.labs.seams.lab [OPERATIONS] [SEED]} is the long form, with several
services at a time; the test calls L{seams} with fewer operations.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import Factory, define

from tests.support.clients import Client, check, running
from tests.support.daemon import (
    Daemon,
    alive,
    children,
    runs_a_worker,
    wait_until,
    wait_until_gone,
)
from tests.support.evidence import record
from tests.support.ports import held_ports

CLIENTS = 3

#: The pause of a client between two steps, so that the processors are free for the
#: operations.
STEP_INTERVAL_SECONDS = 0.02

#: The delay between two readiness checks.
POLL_SECONDS = 0.03

#: How many services the long form disturbs, and how many at a time.  An operation usually
#: waits, but with more services at a time, starts are so slow that the watchdog replaces
#: workers.
SERVICE_COUNT = 20
CONCURRENT_SERVICES = 4

#: How long a recovery may take.  Several services start at the same time, and a worker that
#: is stopped during its start is noticed only after 30 seconds.
MAX_RECOVERY_SECONDS = 180

#: The latest moment of a disturbance after the beginning of a start.
MAX_DISTURBANCE_SECONDS = 1.5

#: How many file descriptors a supervisor has at most, including those for a reload.
MAX_DESCRIPTORS = 40

#: How many errors one operation may log: two workers, each with several reasons.
MAX_ERRORS = 12


@define(eq=False)
class Service:
    """
    A service with a configuration file, whose store is a symbolic link.
    """

    path: Path
    port: int
    rng: random.Random
    daemon: Daemon = Factory(lambda self: self.start(), takes_self=True)

    @property
    def config(self) -> Path:
        return self.path / "pexservice.toml"

    def start(self) -> Daemon:
        return Daemon(
            self.path,
            *("--config", str(self.config), "--no-create", "--watchdog", "2"),
            *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--listen", "unix:http.sock"),
        )

    def kill_and_start(self) -> None:
        """
        Kill the supervisor, and start it again.
        """
        workers = children(self.pid)
        self.daemon.kill_supervisor()
        self.daemon = self.start()
        wait_until_gone(*workers)

    @property
    def pid(self) -> int:
        return self.daemon.process.pid

    def wait_for(self, status: int) -> str:
        """
        Wait until C{/readyz} has this status, and return its reasons.
        """
        end = time.monotonic() + MAX_RECOVERY_SECONDS
        while time.monotonic() < end:
            # A killed worker closes its connections.
            with suppress(OSError):
                response, body = self.daemon.request("/readyz?verbose")
                if response.status == status:
                    return body.decode()
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"/readyz was not {status}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self.daemon.log.read_text()[-5000:]

    def maybe_disturb_workers(self, *, kill_all_workers: bool) -> None:
        """
        In three of ten cases, kill all workers, kill one, or replace the workers.

        @param kill_all_workers: always kill all workers.
        """
        choice = self.rng.randrange(10)
        if kill_all_workers or choice == 0:
            kill_all(self)
        elif choice == 1:
            kill_one(self)
        elif choice == 2:
            replace_workers(self)


def kill_all(service: Service) -> None:
    service.daemon.kill_workers()


def kill_one(service: Service) -> None:
    """
    Kill one of the workers, if there is any.
    """
    with suppress(ProcessLookupError, IndexError):
        os.kill(service.rng.choice(children(service.pid)), signal.SIGKILL)


def replace_workers(service: Service) -> None:
    """
    Send SIGHUP, so that the workers are replaced.
    """
    service.daemon.process.send_signal(signal.SIGHUP)


def stop_one(service: Service) -> None:
    """
    Stop a worker, and continue it; in one of ten cases, leave it to the watchdog.
    """
    workers = children(service.pid)
    if not workers:
        return
    pid = service.rng.choice(workers)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        if service.rng.random() < 0.9:
            time.sleep(service.rng.uniform(0, 0.5))
            os.kill(pid, signal.SIGCONT)


def stop_all_and_restart(service: Service) -> None:
    """
    Stop all workers, kill the supervisor, and start it again at once.
    """
    for pid in children(service.pid):
        with suppress(ProcessLookupError):
            # A stopped setpriv, which runs for a millisecond before a worker, would survive
            # the supervisor.
            if runs_a_worker(pid):
                os.kill(pid, signal.SIGSTOP)
    service.kill_and_start()


def hang_supervisor(service: Service) -> None:
    """
    Stop the supervisor, sometimes kill a worker meanwhile, and continue the supervisor.
    """
    os.kill(service.pid, signal.SIGSTOP)
    if service.rng.random() < 0.2:
        kill_one(service)
    time.sleep(service.rng.uniform(0, 0.5))
    os.kill(service.pid, signal.SIGCONT)


def restart(service: Service) -> None:
    """
    Kill or end the supervisor, and start it again.
    """
    if service.rng.random() < 0.5:
        service.daemon.stop()
    service.kill_and_start()


def restart_disturbed(disturb: Callable[[int], None]) -> Callable[[Service], None]:
    """
    Return an operation that kills the supervisor, and disturbs its next start.

    @param disturb: called with the process id of the new supervisor at a random moment.
    """

    def find_and_disturb(path: Path) -> None:
        for pid in children(os.getpid()):
            with suppress(ProcessLookupError, FileNotFoundError):
                if Path(f"/proc/{pid}/cwd").readlink() == path:
                    disturb(pid)

    def operation(service: Service) -> None:
        delay = service.rng.uniform(0, MAX_DISTURBANCE_SECONDS)
        disturbance = threading.Timer(delay, find_and_disturb, (service.path,))
        disturbance.daemon = True
        disturbance.start()
        # This start may fail: SIGHUP ends a process that has not yet set its handler.
        with suppress(AssertionError):
            service.kill_and_start()
        disturbance.join()
        if service.daemon.process.poll() is not None:
            service.kill_and_start()

    return operation


def kill_supervisor(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    # A killed process may seem to run for a moment.
    wait_until_gone(pid)


def kill_youngest_child(pid: int) -> None:
    """
    Kill the youngest child and its children: a worker, or a process that verifies.
    """
    for child in sorted(children(pid))[-1:]:
        for process in [*children(child), child]:
            os.kill(process, signal.SIGKILL)


def remove_socket_file(service: Service) -> None:
    (service.path / "http.sock").unlink(missing_ok=True)


@contextmanager
def store_moved_away(service: Service) -> Iterator[None]:
    """
    Move the store's directory away; nothing may be created in its place.
    """
    (service.path / "right").rename(service.path / "away")
    yield
    assert not (service.path / "right").exists()
    (service.path / "away").rename(service.path / "right")


@contextmanager
def store_emptied(service: Service) -> Iterator[None]:
    """
    Move the store's files out of its directory; nothing may be created there.
    """
    (service.path / "files").mkdir()
    names = [entry.name for entry in (service.path / "right").iterdir()]
    for name in names:
        (service.path / "right" / name).rename(service.path / "files" / name)
    yield
    assert not (service.path / "right" / "data.mdb").exists()
    for name in names:
        (service.path / "files" / name).rename(service.path / "right" / name)
    (service.path / "files").rmdir()


@contextmanager
def link_switched(service: Service) -> Iterator[None]:
    """
    Switch the link to an older copy of the store, which must not change.
    """
    older_copy = service.path / "wrong" / "data.mdb"
    before = older_copy.read_bytes()
    _switch(service, "wrong")
    yield
    assert older_copy.read_bytes() == before
    _switch(service, "right")


def _switch(service: Service, target: str) -> None:
    (service.path / "next").symlink_to(target)
    (service.path / "next").rename(service.path / "link")


@contextmanager
def store_locked(service: Service) -> Iterator[None]:
    """
    Let a foreign process take the lock of the store.
    """
    process = subprocess.Popen(
        ["/usr/bin/flock", "--no-fork", str(service.path / "right"), "sleep", "1000"],
        stdin=subprocess.DEVNULL,
    )

    def has_the_lock() -> bool:
        kill_all(service)
        return "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text()

    try:
        wait_until(has_the_lock, "another process has the lock")
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def config_half_written(service: Service) -> Iterator[None]:
    """
    Truncate the configuration file, and replace the workers.
    """
    complete = service.config.read_text()
    service.config.write_text(complete[: complete.index("journal")])
    replace_workers(service)
    time.sleep(0.1)
    yield
    service.config.write_text(complete)


#: Operations after which the service recovers by itself, each with its weight in the random
#: choice.  Starting a process takes 0.5 seconds of a processor, so operations with starts
#: are rarer; 10,000 operations take 40 minutes.
MOMENTARY_OPERATIONS: dict[str, tuple[int, Callable[[Service], None]]] = {
    "a worker killed": (8, kill_one),
    "both workers killed": (3, kill_all),
    "workers replaced": (3, replace_workers),
    "a worker stopped": (20, stop_one),
    "supervisor restarted": (2, restart),
    "workers stopped, supervisor killed": (2, stop_all_and_restart),
    "supervisor stopped": (12, hang_supervisor),
    "socket file removed": (6, remove_socket_file),
    "start disturbed by SIGHUP": (
        1,
        restart_disturbed(lambda pid: os.kill(pid, signal.SIGHUP)),
    ),
    "start with a child killed": (1, restart_disturbed(kill_youngest_child)),
    "start with the supervisor killed": (1, restart_disturbed(kill_supervisor)),
}

#: Operations that prevent steps while they last, and are then undone.
LASTING_OPERATIONS = {
    "store moved": (12, store_moved_away),
    "store emptied": (12, store_emptied),
    "link switched": (10, link_switched),
    "store locked by another": (2, store_locked),
}

#: Operations during which the service continues.
HARMLESS_OPERATIONS = {"configuration half written": (8, config_half_written)}

WEIGHTS = {
    name: weight
    for operations in (MOMENTARY_OPERATIONS, LASTING_OPERATIONS, HARMLESS_OPERATIONS)
    for name, (weight, _) in operations.items()
}


def disturb(service: Service, name: str, *, kill_all_workers: bool = False) -> None:
    """
    Do one operation, undo it, and wait until the service is ready again.

    @param kill_all_workers: kill all workers while the operation lasts.
    @raise AssertionError: the service does not behave as promised.
    """
    log_size = service.daemon.log.stat().st_size
    if name in MOMENTARY_OPERATIONS:
        MOMENTARY_OPERATIONS[name][1](service)
    else:
        with (LASTING_OPERATIONS | HARMLESS_OPERATIONS)[name][1](service):
            service.maybe_disturb_workers(kill_all_workers=kill_all_workers)
            if name in LASTING_OPERATIONS:
                reasons = service.wait_for(503)
                assert "[-]store" in reasons, reasons
                # Keep the condition for a while, whatever happens to the workers.
                time.sleep(service.rng.uniform(0, 0.5))
    service.wait_for(200)
    errors = service.daemon.log.read_bytes()[log_size:].count(b" error: ")
    assert errors <= MAX_ERRORS, service.daemon.log.read_bytes()[log_size:].decode()


def wait_and_check_workers(service: Service) -> None:
    """
    Wait until both workers are up, and check their number and the supervisor's descriptors.
    """
    service.wait_for(200)
    end = time.monotonic() + MAX_RECOVERY_SECONDS
    while not has_both_workers(service):
        assert time.monotonic() < end, f"no standby:\n{service.log_tail()}"
        time.sleep(POLL_SECONDS)
    descriptors = len([*Path(f"/proc/{service.pid}/fd").iterdir()])
    assert descriptors <= MAX_DESCRIPTORS, descriptors
    response, body = service.daemon.request("/next", "POST")
    assert response.status == 200, f"ready, but {body!r}:\n{service.log_tail()}"


def has_both_workers(service: Service) -> bool:
    """
    Return whether there is one active worker and one standby.
    """
    # A stopped worker that the watchdog kills closes its connections.
    with suppress(OSError):
        metrics = service.daemon.request("/metrics")[1]
        return (
            b"pexservice_standby_workers 1.0" in metrics and len(children(service.pid)) == 2
        )
    return False


def seams(path: Path, count: int, seed: int = 1) -> int:
    """
    Do C{count} operations on a service under load: first each one once, then at random.

    @return: the number of acknowledged steps.
    @raise AssertionError: an acknowledged step was lost or made twice, the service used
        another store or did not recover, or processes or files were left.
    """
    path = path.resolve()
    rng = random.Random(seed)  # noqa: S311 nothing secret
    names, weights = [*WEIGHTS], [*WEIGHTS.values()]
    (path / "right").mkdir()
    (path / "link").symlink_to("right")
    (path / "pexservice.toml").write_text('store = "lmdb:link"\njournal = 10000000\n')
    with held_ports(1) as (port,):
        created = Daemon(path, "--store", "lmdb:link")
        created.request("/next", "POST")
        created.stop()
        shutil.copytree(path / "right", path / "wrong")
        service = Service(path, port, rng)
        clients = [
            Client(
                *(2 * number + 1, port),
                fresh=number % 2 == 0,
                patient=True,
                pause_seconds=STEP_INTERVAL_SECONDS,
            )
            for number in range(CLIENTS)
        ]
        with running(clients):
            for number in range(count):
                first = number < len(names)
                name = names[number] if first else rng.choices(names, weights)[0]
                disturb(service, name, kill_all_workers=first)
                if number % 20 == 19:
                    wait_and_check_workers(service)
            wait_and_check_workers(service)
        acknowledged, _ = check(service.daemon, clients)
        workers = children(service.pid)
        service.daemon.stop()
        assert not any(map(alive, workers))
    assert not (path / "http.sock").exists()
    return acknowledged


def main() -> None:
    """
    Do 10,000 operations on several services, and record the figures.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with (
        tempfile.TemporaryDirectory() as path,
        ProcessPoolExecutor(CONCURRENT_SERVICES) as pool,
    ):
        directories = [Path(path) / str(number) for number in range(SERVICE_COUNT)]
        for directory in directories:
            directory.mkdir()
        counts = [-(-count // SERVICE_COUNT)] * SERVICE_COUNT
        acknowledged = 0
        for steps in pool.map(seams, directories, counts, itertools.count(seed)):
            acknowledged += steps
            print(f"{acknowledged:,} steps acknowledged", flush=True)
    record(
        "seams",
        promise="One store is served, whatever happens to processes and files.",
        size=count,
        unit="operations on processes, files and the store under clients",
        result=f"{acknowledged:,} steps acknowledged, none lost or made twice,"
        " and the service recovered by itself each time",
    )


if __name__ == "__main__":
    main()
