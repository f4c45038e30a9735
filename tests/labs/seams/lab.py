"""
Random operations on the processes, the files and the store of a service under clients.

Each operation disturbs the service, is undone, and the service has to recover by itself.

C{python -m tests.labs.seams.lab [OPERATIONS] [SEED]} is the long form, in which several
services are disturbed side by side; the test calls L{seams} with fewer operations.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import Factory, define, frozen

from tests.support.clients import Client, check, running
from tests.support.daemon import (
    Daemon,
    alive,
    children,
    runs_a_worker,
    wait_until,
    wait_until_gone,
)
from tests.support.evidence import Evidence, record
from tests.support.ports import held_ports

CLIENTS = 3

#: The delay between two steps of a client: the processors are for the disturbances.
STEP_INTERVAL_SECONDS = 0.02

#: The delay between two questions whether a service is ready.
POLL_SECONDS = 0.03

#: How many services the long form disturbs, and how many of them at once: an operation
#: usually waits, but more services start so slowly that the watchdog replaces them.
SERVICES = 20
CONCURRENT = 4

#: How long a recovery may take.  Services that start at once are slow, and a worker
#: that is stopped during its start is noticed after 30 seconds.
MAX_RECOVERY_SECONDS = 180

#: How many file descriptors a supervisor has at most, with all that it needs for a reload.
MAX_DESCRIPTORS = 40

#: How many errors one disturbance may log: two workers, each with its reasons.
MAX_ERRORS = 12


class Refused(OSError):
    """
    A response with status 503, after which a client repeats its step.
    """


class PatientClient(Client):
    """
    A client that repeats a refused step with the same key until the step is made.
    """

    def _step(self, word: str, key: str | None) -> None:
        super()._step(word, key)
        time.sleep(STEP_INTERVAL_SECONDS)

    def _exchange(self, sent: bytes) -> bytes:
        answer = super()._exchange(sent)
        if answer.startswith(b"HTTP/1.1 503 "):
            time.sleep(STEP_INTERVAL_SECONDS)
            raise Refused
        return answer


@frozen
class Result:
    """
    The figures of one run.

    @ivar operations: how often each was done, by name.
    @ivar acknowledged: steps that were answered.
    @ivar made_steps: steps in the history.
    """

    operations: Counter[str]
    acknowledged: int
    made_steps: int


@define(eq=False)
class Service:
    """
    A service whose store is a symbolic link, and whose options are in a file.
    """

    path: Path
    port: int
    choose: random.Random
    daemon: Daemon = Factory(lambda self: self.start(), takes_self=True)

    @property
    def link(self) -> Path:
        """
        Return the configured name of the store.
        """
        return self.path / "link"

    @property
    def config(self) -> Path:
        """
        Return the configuration file.
        """
        return self.path / "pexservice.toml"

    def start(self) -> Daemon:
        """
        Start the supervisor.
        """
        return Daemon(
            self.path,
            *("--config", str(self.config), "--no-create", "--watchdog", "2"),
            *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--listen", "unix:http.sock"),
        )

    @property
    def pid(self) -> int:
        """
        Return the supervisor's process id.
        """
        return self.daemon.process.pid

    def readiness(self) -> tuple[int, str]:
        """
        Ask C{/readyz} for its status and its reasons.
        """
        answer, body = self.daemon.request("/readyz?verbose")
        return answer.status, body.decode()

    def wait_for(self, status: int) -> str:
        """
        Wait until C{/readyz} has C{status}, and return its reasons.
        """
        end = time.monotonic() + MAX_RECOVERY_SECONDS
        while time.monotonic() < end:
            # A worker that was killed breaks its connections.
            with suppress(OSError):
                present_status, reasons = self.readiness()
                if present_status == status:
                    return reasons
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"/readyz was not {status}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """
        Return the end of the daemon's log.
        """
        return self.daemon.log.read_text()[-5000:]

    def kill_workers(self) -> None:
        for pid in children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def maybe_disturb_workers(self, *, surely: bool) -> None:
        """
        Mostly do nothing; or kill all workers, kill one, or have them replaced.

        @param surely: kill all.
        """
        what = self.choose.randrange(10)
        if surely or what == 0:
            self.kill_workers()
        elif what == 1:
            kill_one(self)
        elif what == 2:
            hang_up(self)


def kill_one(service: Service) -> None:
    """
    Kill the active worker or the standby.
    """
    workers = children(service.pid)
    if workers:
        with suppress(ProcessLookupError):
            os.kill(service.choose.choice(workers), signal.SIGKILL)


def kill_all(service: Service) -> None:
    """
    Kill both workers.
    """
    service.kill_workers()


def hang_up(service: Service) -> None:
    """
    Have the workers replaced.
    """
    service.daemon.process.send_signal(signal.SIGHUP)


def stop_one(service: Service) -> None:
    """
    Stop a worker, and continue it or, rarely, leave it to the watchdog.
    """
    workers = children(service.pid)
    if not workers:
        return
    pid = service.choose.choice(workers)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        if service.choose.random() < 0.9:
            time.sleep(service.choose.uniform(0, 0.5))
            os.kill(pid, signal.SIGCONT)


def stop_all_and_restart(service: Service) -> None:
    """
    Stop all workers, kill the supervisor, and start it again at once.
    """
    workers = children(service.pid)
    for pid in workers:
        with suppress(ProcessLookupError):
            # Only setpriv's process, which runs for a millisecond, would outlive this.
            if runs_a_worker(pid):
                os.kill(pid, signal.SIGSTOP)
    service.daemon.process.kill()
    service.daemon.process.wait()
    service.daemon = service.start()
    wait_until_gone(*workers)


def hang_supervisor(service: Service) -> None:
    """
    Stop the supervisor, kill a worker in that time or not, and continue it.
    """
    os.kill(service.pid, signal.SIGSTOP)
    if service.choose.random() < 0.2:
        kill_one(service)
    time.sleep(service.choose.uniform(0, 0.5))
    os.kill(service.pid, signal.SIGCONT)


def restart(service: Service) -> None:
    """
    End the supervisor, in order or not, and start it again.
    """
    workers = children(service.pid)
    if service.choose.random() < 0.5:
        service.daemon.process.kill()
        service.daemon.process.wait()
    else:
        service.daemon.stop()
    service.daemon = service.start()
    wait_until_gone(*workers)


@contextmanager
def away(service: Service) -> Iterator[None]:
    """
    Move the store's directory away; nothing may be created in its place.
    """
    (service.path / "right").rename(service.path / "away")
    yield
    assert not (service.path / "right").exists()
    (service.path / "away").rename(service.path / "right")


@contextmanager
def emptied(service: Service) -> Iterator[None]:
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
def switched(service: Service) -> Iterator[None]:
    """
    Switch the link to an older copy of the store, which must stay as it is.
    """
    wrong = service.path / "wrong" / "data.mdb"
    before = wrong.read_bytes()
    _switch(service, "wrong")
    yield
    assert wrong.read_bytes() == before
    _switch(service, "right")


def _switch(service: Service, target: str) -> None:
    (service.path / "next").symlink_to(target)
    (service.path / "next").rename(service.link)


@contextmanager
def locked(service: Service) -> Iterator[None]:
    """
    Have a process that is none of the service's workers take the store's lock.
    """
    process = subprocess.Popen(
        ["/usr/bin/flock", "--no-fork", str(service.path / "right"), "sleep", "1000"],
        stdin=subprocess.DEVNULL,
    )

    def has_the_lock() -> bool:
        service.kill_workers()
        return "sleep" in Path(f"/proc/{process.pid}/cmdline").read_text()

    try:
        wait_until(has_the_lock, "another process has the lock")
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def half_written(service: Service) -> Iterator[None]:
    """
    Leave half of the configuration file, and have the workers replaced.
    """
    whole = service.config.read_text()
    service.config.write_text(whole[: whole.index("journal")])
    hang_up(service)
    time.sleep(0.1)
    yield
    service.config.write_text(whole)


#: Operations after which the service serves on by itself, whatever they did.
MOMENTS: dict[str, Callable[[Service], None]] = {
    "a worker killed": kill_one,
    "both workers killed": kill_all,
    "workers replaced": hang_up,
    "a worker stopped": stop_one,
    "supervisor restarted": restart,
    "workers stopped, supervisor killed": stop_all_and_restart,
    "supervisor stopped": hang_supervisor,
    "socket file removed": lambda service: (service.path / "http.sock").unlink(
        missing_ok=True
    ),
}

#: Operations during which no step may be taken, and that are undone.
CONDITIONS = {
    "store moved": away,
    "store emptied": emptied,
    "link switched": switched,
    "store locked by another": locked,
}


#: How often each operation is chosen.  Those that start processes cost half a second of a
#: processor for each and are rarer, so that 10,000 operations take 40 minutes.
WEIGHTS = {
    "a worker killed": 8,
    "both workers killed": 3,
    "workers replaced": 3,
    "a worker stopped": 20,
    "supervisor restarted": 2,
    "workers stopped, supervisor killed": 2,
    "supervisor stopped": 12,
    "socket file removed": 6,
    "store moved": 12,
    "store emptied": 12,
    "link switched": 10,
    "store locked by another": 2,
    "configuration half written": 8,
}


def disturb(service: Service, name: str, *, surely: bool = False) -> None:
    """
    Do one operation, undo it, and wait until the service is ready again.

    @param surely: kill all workers while it lasts.
    @raise AssertionError: an invariant does not hold.
    """
    begin = service.daemon.log.stat().st_size
    if name in MOMENTS:
        MOMENTS[name](service)
    elif name == "configuration half written":
        with half_written(service):
            service.maybe_disturb_workers(surely=surely)
    else:
        with CONDITIONS[name](service):
            service.maybe_disturb_workers(surely=surely)
            reasons = service.wait_for(503)
            assert "[-]store" in reasons, reasons
            # It lasts, whatever the workers do meanwhile.
            time.sleep(service.choose.uniform(0, 0.5))
    service.wait_for(200)
    errors = service.daemon.log.read_bytes()[begin:].count(b" error: ")
    assert errors <= MAX_ERRORS, service.daemon.log.read_bytes()[begin:].decode()


def settle(service: Service) -> None:
    """
    Wait until both workers are up, and check what they and the supervisor hold.
    """
    service.wait_for(200)
    end = time.monotonic() + MAX_RECOVERY_SECONDS
    while not has_both_workers(service):
        assert time.monotonic() < end, f"no standby:\n{service.log_tail()}"
        time.sleep(POLL_SECONDS)
    descriptors = len([*Path(f"/proc/{service.pid}/fd").iterdir()])
    assert descriptors <= MAX_DESCRIPTORS, descriptors
    answer, body = service.daemon.request("/next", "POST")
    assert answer.status == 200, f"ready, but {body!r}:\n{service.log_tail()}"


def has_both_workers(service: Service) -> bool:
    """
    Return whether one worker serves and one stands by.
    """
    # A stopped worker that the watchdog kills breaks its connections.
    with suppress(OSError):
        metrics = service.daemon.request("/metrics")[1]
        return (
            b"pexservice_standby_workers 1.0" in metrics and len(children(service.pid)) == 2
        )
    return False


def seams(path: Path, count: int, seed: int = 1) -> Result:
    """
    Disturb a service under clients C{count} times.

    @raise AssertionError: an acknowledged step is lost or was made twice, another store was
        served, the service did not recover, or something was left.
    """
    path = path.resolve()
    choose = random.Random(seed)  # noqa: S311 nothing secret
    names, weights = [*WEIGHTS], [*WEIGHTS.values()]
    done: Counter[str] = Counter()
    (path / "right").mkdir()
    (path / "link").symlink_to("right")
    (path / "pexservice.toml").write_text('store = "lmdb:link"\njournal = 10000000\n')
    with held_ports(1) as (port,):
        created = Daemon(path, "--store", "lmdb:link")
        created.request("/next", "POST")
        created.stop()
        shutil.copytree(path / "right", path / "wrong")
        service = Service(path, port, choose)
        clients = [
            PatientClient(2 * number + 1, port, fresh=number % 2 == 0)
            for number in range(CLIENTS)
        ]
        with running(clients):
            for number in range(count):
                # Each once, and then in any order.
                first = number < len(names)
                name = names[number] if first else choose.choices(names, weights)[0]
                disturb(service, name, surely=first)
                done[name] += 1
                if number % 20 == 19:
                    settle(service)
            settle(service)
        acknowledged, made_steps = check(service.daemon, clients)
        workers = children(service.pid)
        service.daemon.stop()
        assert not any(map(alive, workers))
    assert not (path / "http.sock").exists()
    return Result(done, acknowledged, made_steps)


def main() -> None:
    """
    Disturb several services 10,000 times in all, and record the figures.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as path,
        ProcessPoolExecutor(CONCURRENT) as pool,
    ):
        runs = []
        for number in range(SERVICES):
            place = Path(path) / str(number)
            place.mkdir()
            runs.append(pool.submit(seams, place, -(-count // SERVICES), seed + number))
        for run in as_completed(runs):
            print(
                f"{time.monotonic() - began:.0f} s",
                run.exception() or run.result(),
                flush=True,
            )
        results = [run.result() for run in runs]
    result = Result(
        sum((result.operations for result in results), Counter()),
        sum(result.acknowledged for result in results),
        sum(result.made_steps for result in results),
    )
    print(result)
    record(
        Evidence(
            name="seams",
            promise="One store is served, whatever happens to processes and files.",
            size=count,
            unit="operations on processes, files and the store under clients",
            result=f"{result.acknowledged:,} steps acknowledged, none lost or made twice,"
            " and the service recovered by itself each time",
            command="make seams",
        )
    )


if __name__ == "__main__":
    main()
