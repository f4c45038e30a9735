"""
Power cuts at random moments under load.

The clients keep records.  After each cut, the file system recovers, the daemon starts
again, and its state is compared with the records.

C{python -m tests.labs.power_cuts.lab [CUTS]} is the long form; the test calls L{cut_power}
with fewer cuts.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from select import select

from attrs import Factory, define

from tests.labs.power_cuts import unsynced
from tests.labs.power_cuts.volumes import KINDS, Kind, Volume
from tests.support.clients import (
    AcknowledgedStep,
    Client,
    replayed,
    surprises,
    until_acknowledged,
    whole_history,
)
from tests.support.daemon import TIMEOUT_SECONDS, Daemon
from tests.support.evidence import record, run_lab

#: The transition of all steps without a key, and of no others.  So the history shows whose
#: step each was: a step with a key that was made twice would match no client.
KEYLESS_TRANSITION = "previous"


@define(eq=False)
class SteppingClient(Client):
    """
    A client that makes steps until there is no response.

    @ivar key_prefix: makes the keys of this client different from those of other clients.
    @ivar steps_by_key: by key, the step in the last response.
    @ivar unknown: the transition and the key of the step with an unknown outcome.
    """

    key_prefix: str = ""
    steps_by_key: dict[str, AcknowledgedStep] = Factory(dict)
    unknown: tuple[str, str | None] | None = None

    def run(self) -> None:
        rng = random.Random(f"{self.key_prefix}-{self.number}")  # noqa: S311 nothing secret
        count = 0
        while not self.stopping.is_set() and self.unknown is None:
            count += 1
            if self.number % 3:
                word = rng.choices(["next", "reset"], [99, 1])[0]
                self.step(word, f"{self.key_prefix}-{self.number}-{count}")
            else:
                self.step(KEYLESS_TRANSITION, None)
        self._close()

    def step(self, word: str, key: str | None) -> bool:
        """
        Make one step.

        @return: whether the response was a replay.
        """
        header = "" if key is None else f"Idempotency-Key: {key}\r\n"
        sent = f"POST /{word} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode()
        began, replayed = time.monotonic(), self.replayed
        try:
            response = self._exchange(sent)
        except OSError:
            response = b"HTTP/1.1 503 "
        if response.startswith(b"HTTP/1.1 503 "):
            # The store failed during the step, or the daemon ended.
            self.unknown = (word, key)
            return False
        self._note(word, began, response)
        if key is not None and not self.surprises:
            self.steps_by_key[key] = self.acknowledged[-1]
        return self.replayed > replayed


@define
class NegativeControl:
    """
    The negative control: LMDB without flushes, on the volume whose power is cut.

    @ivar cuts: after how many cuts the data was checked.
    @ivar control_losses: after how many of them a committed number was missing.
    """

    path: Path
    cuts: int = 0
    control_losses: int = 0

    _process: subprocess.Popen[bytes] | None = None
    _committed: int = 0

    def start(self) -> None:
        """
        Start the writer after a recovery, check what it finds, and let it write.
        """
        before = self._committed
        self._process = subprocess.Popen(
            [sys.executable, unsynced.__file__, str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        ready, _, _ = select([self._process.stdout], [], [], TIMEOUT_SECONDS)
        # Without flushes, the file may be damaged too, and the writer may crash.
        line = self._process.stdout.readline() if ready else b""
        if before:
            self.cuts += 1
            self.control_losses += not line or int(line) < before
        if not line:
            self.kill()
            shutil.rmtree(self.path, ignore_errors=True)

    def kill(self) -> None:
        """
        Kill the writer after a cut or at the end.
        """
        self._committed = 0
        if self._process is None:
            return
        self._process.kill()
        output, _ = self._process.communicate()
        self._process = None
        # The last line may be incomplete.
        *lines, _ = output.split(b"\n")
        self._committed = int(lines[-1]) if lines else 0


#: How many clients each file system has; every third one makes its steps without keys.
CLIENTS = 9

#: The shortest and the longest time of load before a cut, in seconds.
LOAD_SECONDS = (0.0, 0.25)

#: How long the daemon runs after a cut, at least and at most.
SECONDS_AFTER_CUT = (0.0, 0.01)

#: One in so many cuts interrupts a whole service, and the others a single worker.
CUTS_PER_SERVICE = 10

#: How many keys from before the last cut are sent again too.
OLD_KEY_COUNT = 20

#: How many cuts one store goes through.  Each start verifies the whole store, so a larger
#: store would make the later cuts slow.
CUTS_PER_STORE = 60

#: More transitions than one store ever has.
JOURNAL = "1000000"


#: The figures of a run by their names.  C{acknowledged} steps had a response, and were
#: found again.  C{repeated} keys were sent again, and made no second step.  Of these,
#: C{unknown} had no response before, and C{unknown_but_stored} were in the store.  The
#: negative control was checked after C{control_cuts} cuts, and had lost data after
#: C{control_losses}.
Result = Counter[str]


@define
class Store:
    """
    A store on a volume, and what the clients know about it.

    @ivar rows: by revision, the position and the transition in the history.
    @ivar steps_by_key: by key, the step in the last response.
    """

    volume: Volume
    store_name: str
    rows: dict[int, tuple[int, str]] = Factory(dict)
    steps_by_key: dict[str, AcknowledgedStep] = Factory(dict)
    result: Result = Factory(Counter)

    def run_with_cuts(self, cuts: int) -> Result:
        """
        Cut the power so often, and compare the store with the records after each cut.

        @raise AssertionError: an acknowledged step was lost, or a step was made twice.
        """
        rng = random.Random(self.store_name)  # noqa: S311 nothing secret
        control = NegativeControl(self.volume.mount_point / "control")
        clients: Sequence[SteppingClient] = []
        for cut in range(cuts):
            with_supervisor = rng.randrange(CUTS_PER_SERVICE) == 0
            daemon = self._start("pexservice" if with_supervisor else "pexservice-worker")
            try:
                control.start()
                self._compare(daemon, clients)
                prefix = f"{self.store_name}-{cut}"
                clients = [
                    SteppingClient(number, daemon.port, key_prefix=prefix)
                    for number in range(CLIENTS)
                ]
                for client in clients:
                    client.start()
                until_acknowledged(clients, 2 * CLIENTS)
                time.sleep(rng.uniform(*LOAD_SECONDS))
                self.volume.cut()
                time.sleep(rng.uniform(*SECONDS_AFTER_CUT))
            finally:
                for client in clients:
                    client.stopping.set()
                daemon.kill()
                control.kill()
            for client in clients:
                client.join(TIMEOUT_SECONDS)
                assert not client.is_alive()
            self.volume.recover()
        control.start()
        control.kill()
        with self._start("pexservice-worker") as daemon:
            self._compare(daemon, clients)
            assert whole_history(daemon) == self.rows
        return self.result + Counter(
            cuts=cuts, control_cuts=control.cuts, control_losses=control.control_losses
        )

    def _start(self, command: str) -> Daemon:
        store = f"lmdb:{self.volume.mount_point / 'store'}"
        options = ("--store", store, "--journal", JOURNAL)
        return Daemon(self.volume.path, *options, command=command)

    def _compare(self, daemon: Daemon, clients: Sequence[SteppingClient]) -> None:
        """
        Compare the clients' records from before the cut with the store after it.
        """
        assert surprises(clients) == []
        acknowledged = [response for client in clients for response in client.acknowledged]
        revision = daemon.revision()
        assert revision >= len(self.rows), "what was compared before is lost"
        lost = [step for step in acknowledged if step.revision > revision]
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged steps are lost"

        steps_by_key = {
            key: step for client in clients for key, step in client.steps_by_key.items()
        }
        unknown = [client.unknown for client in clients if client.unknown]
        repeated = self._repeat(daemon, steps_by_key, unknown)

        rows = whole_history(daemon, len(self.rows))
        position, _ = self.rows.get(len(self.rows), (0, ""))
        replayed(rows, len(self.rows), position)
        self.rows |= rows

        for step in [*acknowledged, *repeated]:
            # No client got the step of another client, or a step that was not made.
            assert rows.pop(step.revision) == (step.position, step.word)
        assert {word for _, word in rows.values()} <= {KEYLESS_TRANSITION}
        assert len(rows) <= len([key for _, key in unknown if key is None])
        self.result["acknowledged"] += len(acknowledged)

    def _repeat(
        self,
        daemon: Daemon,
        steps_by_key: dict[str, AcknowledgedStep],
        unknown: Iterable[tuple[str, str | None]],
    ) -> list[AcknowledgedStep]:
        """
        Send keys again: those with a response, and those without one.

        These are all keys with a response since the last cut, and some of the older ones.
        A key without a response is sent twice.

        @return: the steps of the keys that had no response before.
        """
        rng = random.Random(len(self.steps_by_key))  # noqa: S311 nothing secret
        old = rng.sample([*self.steps_by_key], min(OLD_KEY_COUNT, len(self.steps_by_key)))
        again = {key: self.steps_by_key[key] for key in old} | steps_by_key
        client = SteppingClient(0, daemon.port)
        for word, key in unknown:
            if key is not None:
                self.result["unknown_but_stored"] += client.step(word, key)
                again[key] = client.steps_by_key[key]
        steps = [*client.acknowledged]
        for key, first in again.items():
            assert client.step(first.word, key), f"{key} made a second step"
            second = client.steps_by_key[key]
            assert (second.revision, second.position) == (first.revision, first.position)
        client._close()
        self.steps_by_key |= again
        self.result += Counter(repeated=len(again), unknown=len(steps))
        return steps


def cut_power_on(path: Path, cuts: int, kind: Kind) -> Result:
    """
    Cut the power on one store after the other, on file systems of one kind.
    """
    results = []
    for done in range(0, cuts, CUTS_PER_STORE):
        store_name = f"{kind.name}-{done}".replace(" ", "-")
        directory = path / store_name
        directory.mkdir()
        with Volume(directory, kind) as volume:
            store = Store(volume, store_name)
            results.append(store.run_with_cuts(min(CUTS_PER_STORE, cuts - done)))
    return sum(results, Counter())


def cut_power(path: Path, cuts: int) -> Result:
    """
    Cut the power at least so often, on all kinds of file systems at the same time.

    @raise AssertionError: an acknowledged step was lost, or a step was made twice; or the
        negative control lost nothing, so that the test could not have noticed a loss.
    """
    cuts_per_kind = -(-cuts // len(KINDS))
    with ThreadPoolExecutor(len(KINDS)) as threads:
        results = [*threads.map(partial(cut_power_on, path, cuts_per_kind), KINDS)]
    for kind, result in zip(KINDS, results, strict=True):
        assert result["control_losses"], f"on {kind.name} the negative control lost nothing"
    total = sum(results, Counter())
    record(
        "powercuts",
        promise="A power cut undoes no acknowledged step, and a repeated key still"
        " makes its step once.",
        size=total["cuts"],
        unit="power cuts under load on ext4 and xfs",
        result=f"0 of {total['acknowledged']:,} acknowledged steps lost;"
        f" 0 of {total['repeated']:,} repeated keys made a second step,"
        f" {total['unknown']:,} of them without a first response;"
        " without flushes, LMDB lost steps"
        f" at {total['control_losses']:,} of {total['control_cuts']:,} cuts",
        command="make power-cuts",
    )
    return total


if __name__ == "__main__":
    run_lab(cut_power, 1000)
