"""
An hour of mixed load on the whole service, with kills and replacements.

The laboratory looks at everything that grows.

C{python -m tests.labs.soak.lab [MINUTES] [KILL_EVERY]} prints a line each minute and
the figures at the end; the tests call L{soak} for half a minute.

Steps come from clients that keep records, with keys and without, on new connections
and on kept ones.  A reader of the history follows it, compares it with the records, and
has them forgotten, so an hour of them needs no room.  Others read values, as text and
as JSON, and one asks for much and reads slowly.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import Factory, define

from pexservice.stores.lmdb.transaction import TRIM_SLACK
from pexservice.stores.lmdb.verify import verify
from tests.functional.test_keepalive import STORE
from tests.labs.failover.lab import serving
from tests.labs.soak.ageing import Sample, age, sample
from tests.labs.soak.onlookers import Follower, Reader, SlowReader
from tests.support.clients import Client, running
from tests.support.daemon import Daemon, alive, wait_until, wait_until_gone
from tests.support.evidence import Evidence, record

#: By its number a stepper uses keys or not, and opens a connection for each step or not.
STEPPERS = 6
READERS = 3

#: The most that the second half may have more than the first, as a part of it and
#: besides.  A worker's memory differs by some MiB with what it was doing.
TOLERANCE = 0.05
MEMORY_SLACK = 4.0
DESCRIPTOR_SLACK = 16
FILE_SLACK = 1.0

#: The memory that a worker may take in a life of a minute beyond what it began with.  A
#: short test may find it busy once and idle once, and allows more.  MiB.
LIFE_SLACK = 6.0

#: How many kills there are, however little time there is.
LEAST = 4

#: How many transitions the history has; it is that long after a minute.
JOURNAL = 20_000


@define
class Soak:
    """
    The state of a soak, so far.

    @ivar young: samples of workers that began to serve a moment ago.
    @ivar samples: samples of the same workers, before they were killed.
    """

    steppers: Sequence[Client]
    readers: Sequence[Reader]
    follower: Follower
    kills: int = 0
    replaced: int = 0
    young: list[Sample] = Factory(list)
    samples: list[Sample] = Factory(list)

    @property
    def refused(self) -> int:
        """
        Return how many connections were refused.
        """
        return sum(
            [stepper.refused for stepper in self.steppers]
            + [reader.refused for reader in self.readers]
        )

    def line(self, seconds: float) -> str:
        """
        Return a line that says how the soak is going.
        """
        newest = self.samples[-1]
        return (
            f"{seconds / 60:5.1f} min: {self.follower.confirmed:,} steps told,"
            f" {sum(reader.reads for reader in self.readers):,} reads, {self.kills} kills,"
            f" {self.replaced} replaced, {self.refused} refused,"
            f" {len(self.follower.lost)} lost, {newest.memory:.1f} MiB,"
            f" {newest.descriptors} descriptors, store {newest.file:.2f} MiB"
        )

    def check(self) -> None:
        """
        Check the records of all clients.

        @raise AssertionError: something was lost, refused, or answered wrongly.
        """
        assert self.follower.lost == []
        assert [surprise for client in self.steppers for surprise in client.surprises] == []
        assert [surprise for reader in self.readers for surprise in reader.surprises] == []
        assert self.refused == 0
        # A row has a transition or more, and they are trimmed a slice at a time.
        assert max(sample.rows for sample in self.samples) <= JOURNAL + 2 * TRIM_SLACK

    def growth(self) -> str:
        """
        Return the most in the first half, and in the second.
        """
        return ", ".join(
            f"{name} {first:.1f} then {second:.1f}"
            for name, first, second, _ in self._halves()
        )

    def check_flatness(
        self, times: float = 1 + TOLERANCE, *, file_slack: float = FILE_SLACK
    ) -> None:
        """
        Check that nothing grows.

        @param times: how many times its first size something may become.
        @param file_slack: MiB that the store's file may grow by besides.
        @raise AssertionError: something grows.
        """
        for name, first, second, slack in self._halves(file_slack):
            assert second <= first * times + slack, (name, self.samples)
        for young, old in zip(self.young, self.samples, strict=True):
            # A worker's leaks are gone with it, and all workers leak the same.
            assert old.descriptors <= young.descriptors + DESCRIPTOR_SLACK, (young, old)
            assert old.own <= young.own + times * LIFE_SLACK, (young, old)

    def _halves(
        self, file_slack: float = FILE_SLACK
    ) -> Iterator[tuple[str, float, float, float]]:
        half = len(self.samples) // 2
        for name, of, slack in (
            ("MiB", lambda sample: sample.memory, MEMORY_SLACK),
            ("descriptors", lambda sample: sample.descriptors, DESCRIPTOR_SLACK),
            ("MiB of store", lambda sample: sample.file, file_slack),
        ):
            yield (
                name,
                max(map(of, self.samples[:half])),
                max(map(of, self.samples[half:])),
                slack,
            )


@contextmanager
def mixed_load(daemon: Daemon) -> Iterator[Soak]:
    """
    Load the daemon by all clients, until the end of the block.
    """
    port = daemon.port
    steppers = [Client(n, port, fresh=n % 4 < 2) for n in range(STEPPERS)]
    readers = [
        Reader(port, json=number == 0, fresh=number == 1) for number in range(READERS)
    ]
    answer, _ = daemon.request("/current")
    revision, position = (
        int(answer.headers[name]) for name in ("Pex-Revision", "Pex-Position")
    )
    follower = Follower(port, clients=steppers, compared=revision, position=position)
    with running([*steppers, *readers, follower, SlowReader(port)]):
        yield Soak(steppers, readers, follower)
    # Compare the answers that arrived since the last time.
    follower.look()


def states(daemon: Daemon) -> set[str]:
    """
    Return what the workers do, by the log.
    """
    pattern = r"supervisor \w+: (worker-\d+) (is process|stands by|serves|ended)"
    return {*dict(re.findall(pattern, daemon.log.read_text())).values()}


def until_up(daemon: Daemon) -> None:
    """
    Wait until one worker serves and one stands by.
    """

    def is_up() -> bool:
        up = states(daemon) - {"ended"} == {"serves", "stands by"}
        # The log may not have heard of a death yet.
        return up and alive(serving(daemon)[1])

    wait_until(is_up, "one worker serves and one stands by")


def replace(daemon: Daemon) -> None:
    """
    Have the workers replaced.
    """
    done = "the workers are replaced"
    before = daemon.log.read_text().count(done)
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.log.read_text().count(done) > before, done)


def soak(path: Path, minutes: float, kill_every: float, replace_every: int = 10) -> Soak:
    """
    Load the service, kill its workers again and again, and check the clients' records.

    @param kill_every: seconds.
    @param replace_every: kills.
    @raise AssertionError: something was lost, refused, or answered wrongly.
    """
    line = began = time.monotonic()
    with Daemon(path, "--journal", str(JOURNAL)) as daemon:
        until_up(daemon)
        with mixed_load(daemon) as going:
            while going.kills < LEAST or time.monotonic() < began + 60 * minutes:
                until_up(daemon)
                going.young.append(sample(daemon))
                # The worker lives for so long, however long it took to come up.
                time.sleep(kill_every)
                until_up(daemon)
                going.samples.append(sample(daemon))
                _, pid = serving(daemon)
                os.kill(pid, signal.SIGKILL)
                wait_until_gone(pid)
                going.kills += 1
                if going.kills % replace_every == 0:
                    until_up(daemon)
                    replace(daemon)
                    going.replaced += 1
                if time.monotonic() >= line + min(60, 60 * minutes / 2):
                    line = time.monotonic()
                    print(going.line(line - began), flush=True)
            until_up(daemon)
        going.check()
    verify(path / STORE)
    return going


def keep(going: Soak, minutes: float) -> None:
    """
    Record the soak for the page.
    """
    acknowledged = going.follower.confirmed
    record(
        Evidence(
            name="soak",
            promise="Under mixed load, while workers are killed and replaced, no"
            " acknowledged step is lost, no connection is refused, and nothing grows.",
            size=round(60 * minutes),
            unit="seconds",
            result=f"{acknowledged:,} steps acknowledged, {going.kills} kills"
            f" and {going.replaced} replacements: {len(going.follower.lost)} lost,"
            f" {going.refused} refused; maxima of the first and the second half:"
            f" {going.growth()}",
            command="make soak",
        )
    )


def main() -> None:
    """
    Soak for so many minutes, with a kill every so many seconds.
    """
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    kill_every = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    with tempfile.TemporaryDirectory() as path:
        age(Path(path) / STORE)
        going = soak(Path(path), minutes, kill_every)
    keep(going, minutes)
    print(going.growth())
    going.check_flatness()


if __name__ == "__main__":
    main()
