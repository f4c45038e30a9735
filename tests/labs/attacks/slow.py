"""
A thousand clients that send or read as slowly as they can.

The laboratory measures how long other clients wait meanwhile.  Debian's C{slowhttptest}
plays the slow clients.
"""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path

from attrs import Factory, define, frozen

from tests.support.daemon import PATIENCE, Daemon, wait_until
from tests.support.evidence import Evidence, record

SLOWHTTPTEST = shutil.which("slowhttptest")

CONNECTIONS = 1000

#: By name, the options that make clients slow, and the path that they ask for.
#: C{slowhttptest} gets the path itself too, to see whether it is answered.
WAYS = {
    "slow headers": (["-H", "-i", "2"], "/current"),
    "slow bodies": (["-B", "-i", "2", "-s", "60000"], "/current"),
    # Ten answers of 60 KB each, a few bytes a second.
    "slow reading": (
        ["-X", "-k", "10", "-w", "1", "-y", "512", "-n", "1", "-z", "5"],
        "/history?limit=1000",
    ),
}

#: How much longer other clients may wait than without the slow ones.  The aim is 100 ms;
#: a machine that is busy with something else must not fail this.
FACTOR = 10
GRACE = 1.0


@define(eq=False)
class Asker(threading.Thread):
    """
    Another client, which steps and looks, on one connection and on fresh ones.

    @ivar waited: the wait for each answer.  Seconds.
    @ivar steps: how many steps were answered.
    @ivar trouble: the error that ended the client before its time.
    """

    port: int
    stopping: threading.Event = Factory(threading.Event)
    waited: list[float] = Factory(list)
    steps: int = 0
    trouble: list[BaseException] = Factory(list)

    def __attrs_post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        """
        Ask until told to stop.
        """
        kept = self._connect()
        try:
            while not self.stopping.is_set():
                self._ask(kept, "GET", "/current")
                self._ask(kept, "POST", "/next")
                fresh = self._connect()
                self._ask(fresh, "POST", "/next")
                fresh.close()
                self.steps += 2
        except (OSError, AssertionError) as error:
            self.trouble.append(error)
        finally:
            kept.close()

    def _connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def _ask(self, connection: HTTPConnection, method: str, path: str) -> None:
        began = time.monotonic()
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        self.waited.append(time.monotonic() - began)
        assert answer.status == 200, (answer.status, body)


@frozen
class Waits:
    """
    The waits of other clients, while the slow ones are there.

    @ivar answers: how many answers the others got.
    @ivar connected: how many slow clients there were at once.
    @ivar median: Seconds.
    @ivar percentile_99: Seconds.
    """

    answers: int
    connected: int
    median: float
    percentile_99: float


def percentile(values: Sequence[float], share: float) -> float:
    """
    Return the value that C{share} of C{values} do not exceed.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def while_asking(daemon: Daemon, work: Callable[[Asker], int]) -> Waits:
    """
    Have another client ask during C{work}.

    C{work} returns how many slow clients there were.
    """
    asker = Asker(daemon.port)
    before = int(daemon.ask("/current")[0].headers["Pex-Revision"])
    asker.start()
    try:
        connected = work(asker)
    finally:
        asker.stopping.set()
        asker.join(PATIENCE)
    assert not asker.is_alive()
    assert asker.trouble == []
    after = int(daemon.ask("/current")[0].headers["Pex-Revision"])
    # The slow ones have asked for no step that was whole.
    assert after == before + asker.steps
    return Waits(
        len(asker.waited),
        connected,
        percentile(asker.waited, 0.5),
        percentile(asker.waited, 0.99),
    )


def in_peace(asker: Asker) -> int:
    """
    Wait, without slow clients, until there are answers enough to compare with.
    """
    wait_until(lambda: len(asker.waited) >= 1000 or not asker.is_alive(), "1,000 answers")
    return 0


def attack(daemon: Daemon, way: str, seconds: int) -> Waits:
    """
    Attack a daemon in one way, and return the waits of others.

    @raise AssertionError: others were not answered, or the slow ones were not there.
    """
    options, path = WAYS[way]
    assert SLOWHTTPTEST is not None

    def run(_: Asker) -> int:
        with tempfile.TemporaryDirectory() as place:
            command = [
                *(SLOWHTTPTEST or "", *options, "-c", str(CONNECTIONS), "-r", "500"),
                *("-l", str(seconds), "-p", str(PATIENCE), "-g", "-o", f"{place}/found"),
                *("-u", f"http://127.0.0.1:{daemon.port}{path}"),
            ]
            done = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds + PATIENCE,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            rows = csv.DictReader((Path(place) / "found.csv").read_text().splitlines())
            return max(int(row["Connected"]) for row in rows)

    waits = while_asking(daemon, run)
    # On a busy machine they do not all come in time.
    assert waits.connected >= CONNECTIONS / 2, waits
    return waits


def attack_all(path: Path, command: str, seconds: int) -> tuple[Waits, dict[str, Waits]]:
    """
    Attack a daemon in one way after the other.

    @return: what others waited in peace, and during each attack.
    """
    waits_by_way = {}
    with Daemon(path, command=command) as daemon:
        for _ in range(1000):
            daemon.ask("/next", "POST")
        peace = while_asking(daemon, in_peace)
        _show("in peace", peace)
        for way in WAYS:
            waits_by_way[way] = waits = attack(daemon, way, seconds)
            _show(way, waits)
            # Not of the rare waits, which a busy machine causes too.
            assert waits.median < FACTOR * peace.median + GRACE, way
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
        assert "ended by" not in log, log
    return peace, waits_by_way


def _show(way: str, waits: Waits) -> None:
    print(
        f"{way}: {waits.connected} slow ones; others got {waits.answers:,} answers,"
        f" median {1000 * waits.median:.1f} ms,"
        f" 99% within {1000 * waits.percentile_99:.1f} ms",
        flush=True,
    )


def keep(seconds: int, rounds: Sequence[tuple[Waits, dict[str, Waits]]]) -> None:
    """
    Record the waits that were found.
    """
    peace = max(peace_waits.percentile_99 for peace_waits, _ in rounds)
    worst = {way: max(attacks[way].percentile_99 for _, attacks in rounds) for way in WAYS}
    figures = ", ".join(f"{way} {1000 * value:.0f} ms" for way, value in worst.items())
    record(
        Evidence(
            name="slow",
            promise="Slow clients do not delay others.",
            size=seconds * len(rounds) * len(WAYS),
            unit=f"seconds of {CONNECTIONS} slow clients",
            result=f"99 % of others' responses within: {figures};"
            f" {1000 * peace:.0f} ms without slow clients",
            command="make attacks",
        )
    )


def main(seconds: int = 30) -> None:
    """
    Attack on both reactors, for longer than the service waits for a request.
    """
    rounds = []
    for command in ("pexservice", "pexservice-worker"):
        print(command, flush=True)
        with tempfile.TemporaryDirectory() as path:
            rounds.append(attack_all(Path(path), command, seconds))
    keep(seconds, rounds)


if __name__ == "__main__":
    main()
