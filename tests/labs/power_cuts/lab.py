"""
Power cuts, again and again, at random moments under load.

The clients keep their own records.  After each cut the file system recovers and the daemon
starts again.  Then the laboratory compares the daemon with the records.

C{python -m tests.labs.power_cuts.lab [CUTS]} prints a table; the tests call
L{laboratory} with fewer cuts.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from attrs import Factory, astuple, define, frozen

from tests.labs.power_cuts.volumes import KINDS, Kind, Volume
from tests.labs.power_cuts.witnesses import KEYLESS_WORD, Stepper, Unsynced
from tests.support.clients import AcknowledgedStep, replayed, whole_history
from tests.support.daemon import TIMEOUT_SECONDS, Daemon
from tests.support.evidence import Evidence, record
from tests.support.loads import until_acknowledged

#: How many clients step on each file system; every third one steps without keys.
CLIENTS = 9

#: How long the load runs before each cut, at least and at most.  Seconds.
LOAD = (0.0, 0.25)

#: How long the daemon runs without power.  Seconds.
AGONY = (0.0, 0.01)

#: Of all cuts, one in so many is of the whole service; the rest are of one worker.
WHOLE = 10

#: How many keys from before the last cut are repeated too.
OLD_KEYS = 20

#: How many cuts one store lives through.  A store is read whole at each start, so an ever
#: growing one would make the late cuts slow.
LIFE = 60

#: More transitions than one store ever has.
JOURNAL = "1000000"


@frozen
class Result:
    """
    The figures of one store, or of all of them together.

    @ivar acknowledged: steps that were answered, all found again.
    @ivar repeated: keys that were sent again, none of which moved twice.
    @ivar unknown: of these, the keys whose first answer had stayed away.
    @ivar unknown_but_made: of these, the keys whose step turned out to have been made.
    @ivar controls: cuts that the negative control saw.
    @ivar losses: cuts at which the control lost something.
    """

    cuts: int = 0
    acknowledged: int = 0
    repeated: int = 0
    unknown: int = 0
    unknown_but_made: int = 0
    controls: int = 0
    losses: int = 0


@define
class Store:
    """
    One store on one volume, and what is known of it from outside.

    @ivar rows: by revision, where each transition led, as the history has it.
    @ivar keyed: by key, each answer to it.
    """

    volume: Volume
    life: str
    halt: threading.Event
    rows: dict[int, tuple[int, str]] = Factory(dict)
    keyed: dict[str, AcknowledgedStep] = Factory(dict)
    acknowledged: int = 0
    repeated: int = 0
    unknown: int = 0
    unknown_but_made: int = 0

    def live(self, cuts: int) -> Result:
        """
        Live through so many cuts, and compare after each.

        @raise AssertionError: an acknowledged step was lost, or one was made twice.
        """
        moments = random.Random(self.life)  # noqa: S311 nothing secret
        control = Unsynced(self.volume.point / "control")
        clients: Sequence[Stepper] = []
        for cut in range(cuts):
            if self.halt.is_set():
                break
            whole = moments.randrange(WHOLE) == 0
            daemon = self._start("pexservice" if whole else "pexservice-worker")
            try:
                control.start()
                self._compare(daemon, clients)
                clients = [
                    Stepper(number, daemon.port, life=f"{self.life}-{cut}")
                    for number in range(CLIENTS)
                ]
                for client in clients:
                    client.start()
                until_acknowledged(clients, 2 * CLIENTS)
                time.sleep(moments.uniform(*LOAD))
                self.volume.cut()
                time.sleep(moments.uniform(*AGONY))
            finally:
                for client in clients:
                    client.stopping.set()
                daemon.kill()
                control.kill()
            for client in clients:
                client.join(TIMEOUT_SECONDS)
                assert not client.is_alive()
            self.volume.recover()
        with self._start("pexservice-worker") as daemon:
            try:
                control.start()
            finally:
                control.kill()
            self._compare(daemon, clients)
            assert whole_history(daemon) == self.rows
        return Result(
            cuts,
            self.acknowledged,
            self.repeated,
            self.unknown,
            self.unknown_but_made,
            control.cuts,
            control.losses,
        )

    def _start(self, command: str) -> Daemon:
        store = f"lmdb:{self.volume.point / 'store'}"
        options = ("--store", store, "--journal", JOURNAL)
        return Daemon(self.volume.path, *options, command=command)

    def _compare(self, daemon: Daemon, clients: Sequence[Stepper]) -> None:
        """
        Compare what the clients know from before the cut with the store after it.
        """
        surprises = [surprise for client in clients for surprise in client.surprises]
        assert not surprises, surprises
        acknowledged = [answer for client in clients for answer in client.acknowledged]
        revision = _revision(daemon)
        assert revision >= len(self.rows), "what was compared before is lost"
        lost = [step for step in acknowledged if step.revision > revision]
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged steps are lost"

        keyed = {key: step for client in clients for key, step in client.keyed.items()}
        unknown = [client.unknown for client in clients if client.unknown]
        repeated = self._repeat(daemon, keyed, unknown)

        rows = whole_history(daemon, len(self.rows))
        position, _ = self.rows.get(len(self.rows), (0, ""))
        replayed(rows, len(self.rows), position)
        self.rows |= rows

        for step in [*acknowledged, *repeated]:
            # No client got another client's step, or a step that was not made.
            assert rows.pop(step.revision) == (step.position, step.word)
        assert {word for _, word in rows.values()} <= {KEYLESS_WORD}
        assert len(rows) <= len([key for _, key in unknown if key is None])
        self.acknowledged += len(acknowledged)

    def _repeat(
        self,
        daemon: Daemon,
        keyed: dict[str, AcknowledgedStep],
        unknown: Iterable[tuple[str, str | None]],
    ) -> list[AcknowledgedStep]:
        """
        Send keys again, both answered ones and those whose answer stayed away.

        All keys that were answered since the last time are sent, and some that were
        answered before.  Those whose answer stayed away are sent twice.

        @return: the final responses to the keys that had no response at first.
        """
        choose = random.Random(len(self.keyed))  # noqa: S311 nothing secret
        old = choose.sample([*self.keyed], min(OLD_KEYS, len(self.keyed)))
        again = {key: self.keyed[key] for key in old} | keyed
        client = Stepper(0, daemon.port)
        for word, key in unknown:
            if key is not None:
                self.unknown_but_made += client.step(word, key)
                again[key] = client.keyed[key]
        steps = [*client.acknowledged]
        for key, first in again.items():
            assert client.step(first.word, key), f"{key} moved twice"
            second = client.keyed[key]
            assert (second.revision, second.position) == (first.revision, first.position)
        client.close()
        self.keyed |= again
        self.repeated += len(again)
        self.unknown += len(steps)
        return steps


def _revision(daemon: Daemon) -> int:
    answer, _ = daemon.request("/current")
    return int(answer.headers["Pex-Revision"])


def lives(path: Path, cuts: int, kind: Kind, halt: threading.Event) -> Result:
    """
    Have one store after the other live on file systems of one kind.

    They live until there were so many cuts, or until C{halt} is set.
    """
    results = []
    for done in range(0, cuts, LIFE):
        life = f"{kind.name}-{done}".replace(" ", "-")
        place = path / life
        place.mkdir()
        with Volume(place, kind) as volume:
            results.append(Store(volume, life, halt).live(min(LIFE, cuts - done)))
    return add(results)


def add(results: Sequence[Result]) -> Result:
    """
    Return the sum of C{results}.
    """
    return Result(*map(sum, zip(*map(astuple, results), strict=True)))


def laboratory(path: Path, cuts: int) -> dict[str, Result]:
    """
    Make at least so many cuts in all, on each kind of file system at the same time.

    @return: the results by kind.
    @raise AssertionError: an acknowledged step was lost, or one was made twice; or the
        negative control lost nothing, so that a loss could not have been seen.
    """
    cuts_per_kind = -(-cuts // len(KINDS))
    halt = threading.Event()
    with ThreadPoolExecutor(len(KINDS)) as threads:
        lived = [threads.submit(lives, path, cuts_per_kind, kind, halt) for kind in KINDS]
        try:
            wait(lived, return_when=FIRST_EXCEPTION)
        finally:
            halt.set()
    results = [life.result() for life in lived]
    for kind, result in zip(KINDS, results, strict=True):
        assert result.losses, f"on {kind.name} the negative control lost nothing"
    whole = add(results)
    record(
        Evidence(
            name="powercuts",
            promise="A power cut undoes no acknowledged step, and a repeated key still"
            " makes its step once.",
            size=whole.cuts,
            unit="power cuts under load on ext4 and xfs",
            result=f"0 of {whole.acknowledged:,} acknowledged steps lost;"
            f" 0 of {whole.repeated:,} repeated keys moved twice,"
            f" {whole.unknown:,} of them without a first response;"
            " without flushes, LMDB lost steps"
            f" at {whole.losses:,} of {whole.controls:,} cuts",
            command="make power-cuts",
        )
    )
    return {kind.name: result for kind, result in zip(KINDS, results, strict=True)}


def main() -> None:
    """
    Cut the power so often, and print a table.
    """
    cuts = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as path:
        results = laboratory(Path(path), cuts)
    print(
        "| | cuts | answered | lost | keys repeated | moved twice"
        " | without an answer | of these made | control lost some |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, result in [*results.items(), ("in all", add([*results.values()]))]:
        figures = (
            result.cuts,
            result.acknowledged,
            0,
            result.repeated,
            0,
            result.unknown,
            result.unknown_but_made,
        )
        row = [name, *(f"{figure:,}" for figure in figures)]
        print(f"| {' | '.join(row)} | {result.losses:,} of {result.controls:,} |")


if __name__ == "__main__":
    main()
