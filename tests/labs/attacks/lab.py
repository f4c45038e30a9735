"""
HTTP under attack: raw requests, the rules of the RFCs, and the responses that are right.

C{python -m tests.labs.attacks.lab [ROUNDS]} tries the whole table on both reactors and
through nginx: first in one piece, and then ROUNDS times cut at random places.  After that,
it tries L{hostile}.  The tests are the short form.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from tests.labs.attacks import attack_bodies, attack_heads, hostile
from tests.labs.attacks.attacking import Attack, Front, attacks, in_pieces
from tests.support.chance import Chance
from tests.support.daemon import LOOPBACK, Daemon
from tests.support.evidence import record
from tests.support.nginx import nginx

TABLE = [
    *attacks(attack_heads.REFUSED, closes=True),
    *attacks(attack_heads.ACCEPTED),
    *attacks(attack_bodies.REFUSED, closes=True),
    *attacks(attack_bodies.ACCEPTED),
    *attacks(attack_bodies.REFUSED_PIPELINES, closes=True),
    *attacks(attack_bodies.LAST_REQUESTS, closes=True),
    *attacks(attack_bodies.TIMED_OUT, closes=True, is_incomplete=True),
    *attacks(attack_bodies.HALF_CLOSED, closes=True, is_incomplete=True, half_closes=True),
]

#: Attacks whose response comes only after the request timeout.
INCOMPLETE = [attack for attack in TABLE if attack.is_incomplete and not attack.half_closes]

COMPLETE = [attack for attack in TABLE if attack not in INCOMPLETE]

ROUNDS = 10


@contextmanager
def fronts(path: Path) -> Iterator[Mapping[str, Front]]:
    """
    Start three fronts, and provide them by name.

    They are a supervised service on uvloop, a single worker on Twisted's reactor, and nginx
    in front of a third service.
    """
    with ExitStack() as stack:
        daemons: list[Daemon] = []

        def start(name: str, command: str, *options: str) -> Daemon:
            place = path / name
            place.mkdir()
            daemon = Daemon(place, *options, command=command)
            daemons.append(stack.enter_context(daemon))
            return daemon

        supervised = start("supervised", "pexservice")
        worker = start("worker", "pexservice-worker")
        listener = path / "proxied" / "socket"
        proxied = start(
            *("proxied", "pexservice", "--listen", LOOPBACK),
            *("--listen", f"unix:{listener}"),
        )
        (path / "nginx").mkdir()
        port = stack.enter_context(nginx(path / "nginx", listener))
        yield {
            "supervised": Front(supervised.port, supervised.revision),
            "worker": Front(worker.port, worker.revision),
            "nginx": Front(port, proxied.revision, nginx=True),
        }
        for daemon in daemons:
            log = daemon.log.read_text()
            assert "Traceback" not in log, log
            assert "ended by" not in log, log


def try_in_pieces(front: Front, attacks: Sequence[Attack], seed: int) -> list[str]:
    chance = Chance(seed)
    return front.try_all(attacks, lambda attack: in_pieces(attack, chance))


def try_incomplete(fronts: Sequence[Front]) -> list[str]:
    """
    Try the incomplete requests on all fronts at once, because each waits for the timeout.
    """
    with ThreadPoolExecutor(len(fronts)) as threads:
        failures = threads.map(lambda front: front.try_at_once(INCOMPLETE), fronts)
        return [*chain.from_iterable(failures)]


def record_attacks(attack_count: int) -> None:
    """
    Record how many attacks were tried, all of them without a failure.
    """
    record(
        "attacks",
        promise="Every request gets a status or the end of its connection; a refused"
        " request moves nothing, and the bytes after it are not executed.",
        size=attack_count,
        unit="raw requests",
        result=f"{len(TABLE)} kinds, on uvloop, on Twisted's reactor and through"
        " nginx, whole and in pieces: no 5xx, no silence, no step without a"
        " response",
    )


def main() -> None:
    """
    Try the whole table, and then hostile clients.
    """
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    attack_count = 0
    with tempfile.TemporaryDirectory() as path, fronts(Path(path)) as fronts_by_name:
        for name, front in fronts_by_name.items():
            failures = front.try_all(COMPLETE)
            for seed in range(rounds):
                failures += try_in_pieces(front, COMPLETE, seed)
            attack_count += len(COMPLETE) * (rounds + 1)
            print(f"{name}: {len(COMPLETE) * (rounds + 1):,} attacks", flush=True)
            assert not failures, "\n".join(failures)
        failures = try_incomplete([*fronts_by_name.values()])
        attack_count += len(INCOMPLETE) * len(fronts_by_name)
        assert not failures, "\n".join(failures)
    print(f"{attack_count:,} attacks of {len(TABLE)} kinds, without a failure", flush=True)
    record_attacks(attack_count)
    hostile.main()


if __name__ == "__main__":
    main()
