"""
An hour of mixed load on the whole service, with kills and replacements of the workers.

C{python -m tests.labs.soak.lab [MINUTES] [KILL_INTERVAL]} prints a sample before each kill,
and the growth at the end; the test calls L{soak} for half a minute.

Some clients make steps and keep records, with and without keys, on new and on kept
connections.  Another client follows the history and compares it with the records, which are
then deleted, so that a long run needs no more memory.  Others read values as text and as
JSON, and one reads long responses slowly.
"""

from __future__ import annotations

import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import lmdb
from attrs import Factory, define, frozen

from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.lmdb.transaction import TRIM_SLACK
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.remembered_keys import KEPT_KEYS
from tests.functional.test_keepalive import STORE, rollup
from tests.support.clients import (
    AcknowledgedStep,
    Client,
    Stoppable,
    _number,
    replayed,
    running,
    surprises,
    whole_history,
)
from tests.support.daemon import TIMEOUT_SECONDS, Daemon, children, wait_until_gone
from tests.support.evidence import record
from tests.support.stores import make_store_with_keys

#: How many steps each commit of an aged store has.
BATCH_SIZE = 250


@frozen
class Sample:
    """
    The resources of the service, all processes together.

    @ivar memory: the proportional memory, in MiB.
    @ivar anonymous: the part of C{memory} that belongs to no file, in MiB.  The other part
        depends on how much of the store a worker has read.
    @ivar file: the size of the store's file, in MiB.
    @ivar rows: the rows of the journal, because a file with free pages does not show their
        growth.
    """

    memory: float
    anonymous: float
    descriptors: int
    file: float
    rows: int


def make_aged_store(path: Path) -> None:
    """
    Make a store that has already trimmed its idempotency keys.

    After that, only a leak can make it larger.
    """
    make_store_with_keys(
        path,
        2 * KEPT_KEYS,
        batch_size=BATCH_SIZE,
        # Like real clients, each client's keys have the same prefix.
        key=lambda revision: b"%d-before-%d" % (revision % 6, revision),
    )


def take_sample(daemon: Daemon) -> Sample:
    """
    Measure the resources while there are an active worker and a standby.
    """
    processes = [daemon.process.pid, *children(daemon.process.pid)]
    text = "".join(rollup(pid) for pid in processes)
    whole, anonymous = (
        sum(map(int, re.findall(rf"^{name}: +(\d+) kB", text, re.MULTILINE))) / 1024
        for name in ("Pss", "Pss_Anon")
    )
    store = daemon.path / STORE
    with (
        lmdb.open(str(store), max_dbs=len(DATABASES), readonly=True) as env,
        env.begin() as txn,
    ):
        rows = txn.stat(env.open_db(b"journal", txn, create=False))["entries"]
    return Sample(
        whole,
        anonymous,
        sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in processes),
        (store / DATA_FILE).stat().st_size / (1 << 20),
        rows,
    )


#: How many older revisions are kept for a comparison: a step that was made before a kill
#: and repeated after it gets a late response.
KEPT_REVISIONS = 200_000


@define(eq=False)
class Reader(Client):
    """
    A client that reads values and checks them; no revision may be older than the last one.

    @ivar json: whether it reads JSON.
    """

    json: bool = False
    reads: int = 0

    def run(self) -> None:
        header = "Accept: application/json\r\n" if self.json else ""
        revision, values = 0, [0, 1]
        while not self.stopping.wait(0.01):
            response = self._ask("current", None, header)
            if not response:
                # The worker was killed.
                continue
            if not response.startswith(b"HTTP/1.1 200 "):
                self.surprises.append(response.decode())
                continue
            before, revision = revision, _number(rb"Pex-Revision", response)
            position = _number(rb"Pex-Position", response)
            while len(values) <= position:
                values.append(sum(values[-2:]))
            value = (b'"current":"%d",' if self.json else b"\r\n\r\n%d\n") % values[
                position
            ]
            if value not in response or revision < before:
                self.surprises.append(f"revision {revision} after {before}: {response!r}")
            self.reads += 1


@define(eq=False)
class SlowReader(Stoppable):
    """
    A client that requests much at once, and reads the responses slowly.
    """

    port: int

    def run(self) -> None:
        request = b"GET /history?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        while not self.stopping.wait(0.1):
            # The worker may be killed at any time.
            with (
                suppress(OSError),
                socket.create_connection(
                    ("127.0.0.1", self.port), TIMEOUT_SECONDS
                ) as connection,
            ):
                connection.sendall(request * 50)
                while not self.stopping.wait(0.1) and connection.recv(2000):
                    pass


@define(eq=False)
class Follower(Stoppable):
    """
    A client that compares the history with the responses of other clients.

    After that, the other clients may forget these responses.

    @ivar compared: the last revision that it has seen.
    @ivar position: the position at this revision.
    @ivar confirmed: how many of the responses it has found in the history.
    @ivar lost: the responses that it has not found.
    """

    service: Daemon
    clients: Sequence[Client]
    compared: int
    position: int
    confirmed: int = 0
    lost: list[str] = Factory(list)

    _rows: dict[int, tuple[int, str]] = Factory(dict)
    _unchecked: list[AcknowledgedStep] = Factory(list)

    def run(self) -> None:
        while not self.stopping.wait(0.5):
            # The worker may be killed at any time.
            with suppress(OSError, HTTPException):
                self.observe()

    def observe(self) -> None:
        """
        Compare everything new.

        @raise AssertionError: the history does not continue the part that was read before.
        """
        for client in self.clients:
            # Meanwhile, the clients append to the end of the list.
            count = len(client.acknowledged)
            self._unchecked += client.acknowledged[:count]
            del client.acknowledged[:count]
        rows = whole_history(self.service, self.compared)
        self.position = replayed(rows, self.compared, self.position)
        self.compared += len(rows)
        self._rows |= dict(sorted(rows.items()))
        for step in self._unchecked:
            # Each response that arrived before the history was read is in the history once.
            if self._rows.pop(step.revision, None) == (step.position, step.word):
                self.confirmed += 1
            else:
                self.lost.append(f"{step}")
        self._unchecked.clear()
        for revision in [*self._rows]:
            if revision > self.compared - KEPT_REVISIONS:
                break
            del self._rows[revision]


#: The number of a client decides whether it uses keys, and whether it opens a connection
#: for each step.
STEPPER_COUNT = 6
READER_COUNT = 3

#: The maximum of the second half may exceed the maximum of the first half by this factor,
#: and by this number of MiB or descriptors in addition.  A worker's memory varies by a few
#: MiB with its load.
TOLERANCE = 0.05
MEMORY_SLACK = 4.0
DESCRIPTOR_SLACK = 16
FILE_SLACK = 1.0

#: How much memory a worker may add in one minute, in MiB.  A short test may find it busy
#: once and idle once, and allows more.
WORKER_MEMORY_SLACK = 6.0

#: How many kills there are at least.
MIN_KILLS = 4

#: How many transitions the history keeps; it reaches this length after a minute.
JOURNAL = 20_000


@define
class Soak:
    """
    The clients and the samples of a soak.

    @ivar first_samples: samples of workers that have just become active.
    @ivar samples: samples of the same workers, just before their kill.
    """

    steppers: Sequence[Client]
    readers: Sequence[Reader]
    follower: Follower
    kills: int = 0
    replacements: int = 0
    first_samples: list[Sample] = Factory(list)
    samples: list[Sample] = Factory(list)

    @property
    def refused(self) -> int:
        return sum(client.refused for client in (*self.steppers, *self.readers))

    def check(self) -> None:
        """
        Check the records of all clients.

        @raise AssertionError: a step was lost, a connection was refused, or a response was
            wrong.
        """
        assert self.follower.lost == []
        assert surprises([*self.steppers, *self.readers]) == []
        assert self.refused == 0
        # A row has at least one transition, and rows are trimmed in portions.
        assert max(sample.rows for sample in self.samples) <= JOURNAL + 2 * TRIM_SLACK

    def growth(self) -> str:
        """
        Return the maxima of the first half and of the second half.
        """
        return ", ".join(
            f"{name} {first:.1f} then {second:.1f}"
            for name, first, second, _ in self._halves()
        )

    def check_flatness(
        self, times: float = 1 + TOLERANCE, *, file_slack: float = FILE_SLACK
    ) -> None:
        """
        Check that no figure grows.

        @param times: by which factor a figure may grow.
        @param file_slack: by how many MiB more the store's file may grow.
        @raise AssertionError: a figure has grown.
        """
        for name, first, second, slack in self._halves(file_slack):
            assert second <= first * times + slack, (name, self.samples)
        for first_sample, last_sample in zip(self.first_samples, self.samples, strict=True):
            # A worker's leaks end with it, but all workers leak alike.
            assert last_sample.descriptors <= first_sample.descriptors + DESCRIPTOR_SLACK, (
                first_sample,
                last_sample,
            )
            assert (
                last_sample.anonymous
                <= first_sample.anonymous + times * WORKER_MEMORY_SLACK
            ), (first_sample, last_sample)

    def _halves(
        self, file_slack: float = FILE_SLACK
    ) -> Iterator[tuple[str, float, float, float]]:
        half = len(self.samples) // 2
        for name, figure, slack in (
            ("MiB", lambda sample: sample.memory, MEMORY_SLACK),
            ("descriptors", lambda sample: sample.descriptors, DESCRIPTOR_SLACK),
            ("MiB of store", lambda sample: sample.file, file_slack),
        ):
            yield (
                name,
                max(map(figure, self.samples[:half])),
                max(map(figure, self.samples[half:])),
                slack,
            )


@contextmanager
def mixed_load(daemon: Daemon) -> Iterator[Soak]:
    """
    Put load on the daemon with all clients, until the end of the block.
    """
    steppers = [Client(n, daemon.port, fresh=n % 4 < 2) for n in range(STEPPER_COUNT)]
    readers = [
        Reader(n, daemon.port, json=n == 0, fresh=n == 1) for n in range(READER_COUNT)
    ]
    response, _ = daemon.request("/current")
    revision, position = (
        int(response.headers[name]) for name in ("Pex-Revision", "Pex-Position")
    )
    follower = Follower(daemon, clients=steppers, compared=revision, position=position)
    with running([*steppers, *readers, follower, SlowReader(daemon.port)]):
        yield Soak(steppers, readers, follower)
    # Compare the responses since the last comparison.
    follower.observe()


def soak(
    path: Path, minutes: float, kill_interval: float, kills_per_replacement: int = 10
) -> Soak:
    """
    Put load on the service, kill its workers regularly, and check the records.

    @param kill_interval: the time between two kills, in seconds.
    @param kills_per_replacement: after how many kills the workers are replaced once.
    @raise AssertionError: see L{Soak.check}.
    """
    began = time.monotonic()
    with Daemon(path, "--journal", str(JOURNAL)) as daemon:
        daemon.until_up()
        # The value of an aged store has thousands of digits.
        daemon.step("reset")
        with mixed_load(daemon) as running_soak:
            while running_soak.kills < MIN_KILLS or time.monotonic() < began + 60 * minutes:
                daemon.until_up()
                running_soak.first_samples.append(take_sample(daemon))
                # From now on, because the worker must live for so long.
                time.sleep(kill_interval)
                daemon.until_up()
                running_soak.samples.append(take_sample(daemon))
                print(running_soak.samples[-1], flush=True)
                wait_until_gone(daemon.kill_active_worker())
                running_soak.kills += 1
                if running_soak.kills % kills_per_replacement == 0:
                    daemon.until_up()
                    daemon.reload()
                    running_soak.replacements += 1
            daemon.until_up()
        running_soak.check()
    verify(path / STORE)
    return running_soak


def record_soak(soak: Soak, minutes: float) -> None:
    acknowledged = soak.follower.confirmed
    record(
        "soak",
        promise="Under mixed load, while workers are killed and replaced, no"
        " acknowledged step is lost, no connection is refused, and nothing grows.",
        size=round(60 * minutes),
        unit="seconds",
        result=f"{acknowledged:,} steps acknowledged, {soak.kills} kills"
        f" and {soak.replacements} replacements: {len(soak.follower.lost)} lost,"
        f" {soak.refused} refused; maxima of the first and the second half:"
        f" {soak.growth()}",
    )


def main() -> None:
    """
    Run the long form.
    """
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    kill_interval = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    with tempfile.TemporaryDirectory() as path:
        make_aged_store(Path(path) / STORE)
        finished = soak(Path(path), minutes, kill_interval)
    record_soak(finished, minutes)
    print(finished.growth())
    finished.check_flatness()


if __name__ == "__main__":
    main()
