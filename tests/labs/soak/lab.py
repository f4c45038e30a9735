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
from tests.labs.soak.ageing import Sample, make_aged_store, take_sample
from tests.labs.soak.onlookers import Follower, Reader, SlowReader
from tests.support.clients import Client, running, surprises
from tests.support.daemon import Daemon, wait_until_gone
from tests.support.evidence import record

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
        clients: list[Client | Reader] = [*self.steppers, *self.readers]
        return sum(client.refused for client in clients)

    def check(self) -> None:
        """
        Check the records of all clients.

        @raise AssertionError: a step was lost, a connection was refused, or a response was
            wrong.
        """
        assert self.follower.lost == []
        assert surprises(self.steppers) == []
        assert [surprise for reader in self.readers for surprise in reader.surprises] == []
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
    readers = [Reader(daemon, json=n == 0, fresh=n == 1) for n in range(READER_COUNT)]
    response, _ = daemon.request("/current")
    revision, position = (
        int(response.headers[name]) for name in ("Pex-Revision", "Pex-Position")
    )
    follower = Follower(daemon, clients=steppers, compared=revision, position=position)
    with running([*steppers, *readers, follower, SlowReader(daemon)]):
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
        command="make soak",
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
