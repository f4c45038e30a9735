"""
HTTP under attack: raw requests, the rules of the RFCs, and the responses that are right.

C{python -m tests.labs.attacks.lab [ROUNDS]} runs the whole table against both
reactors and through nginx, first in one piece and then ROUNDS times cut anywhere;
after that the crowds, the hostile clients and the slow ones of L{crowds}, L{hostile} and
L{slow}.  The tests do the same in small.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.labs.attacks import attack_bodies, attack_heads, crowds, hostile, slow
from tests.labs.attacks.attacking import Attack, Front, in_pieces
from tests.support.daemon import LOOPBACK, Daemon
from tests.support.evidence import Evidence, record
from tests.support.nginx import nginx

TABLE = [
    *attack_heads.REQUEST_LINES,
    *attack_heads.TARGETS,
    *attack_heads.HOSTS,
    *attack_heads.PAGES,
    *attack_heads.HEADERS,
    *attack_bodies.LENGTHS,
    *attack_bodies.CODINGS,
    *attack_bodies.CHUNKS,
    *attack_bodies.PIPELINES,
    *attack_bodies.EXPECTATIONS,
    *attack_bodies.UNFINISHED,
]

#: The attacks that the service waits for until their time is over.
PATIENT = [attack for attack in TABLE if attack.hangs and not attack.leaves]

PROMPT = [attack for attack in TABLE if attack not in PATIENT]

ROUNDS = 10


@contextmanager
def fronts(path: Path) -> Iterator[Mapping[str, Front]]:
    """
    Provide three fronts, by their names.

    They are the supervised service, on uvloop; a worker by itself, on Twisted's own
    reactor; and nginx in front of a third service.
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
        listener = path / "behind" / "socket"
        behind = start(
            *("behind", "pexservice", "--listen", LOOPBACK),
            *("--listen", f"unix:{listener}"),
        )
        (path / "nginx").mkdir()
        port = stack.enter_context(nginx(path / "nginx", listener))
        yield {
            "supervised": Front(supervised.port, lambda: revision(supervised)),
            "worker": Front(worker.port, lambda: revision(worker)),
            "nginx": Front(port, lambda: revision(behind), nginx=True),
        }
        for daemon in daemons:
            log = daemon.log.read_text()
            assert "Traceback" not in log, log
            assert "ended by" not in log, log


def revision(daemon: Daemon) -> int:
    """
    Return the revision of the daemon's cursor.
    """
    return int(daemon.ask("/current")[0].headers["Pex-Revision"])


def try_cut(front: Front, attacks: Sequence[Attack], seed: int) -> list[str]:
    """
    Try each attack cut at random places.
    """
    chance = random.Random(seed)  # noqa: S311 nothing secret
    return front.try_all(attacks, lambda attack: in_pieces(attack, chance))


def wait_all(fronts: Sequence[Front]) -> list[str]:
    """
    Try the attacks that take their time on all fronts at once.
    """
    with ThreadPoolExecutor(len(fronts)) as threads:
        troubles_of_fronts = threads.map(lambda front: front.try_at_once(PATIENT), fronts)
    return [trouble for troubles in troubles_of_fronts for trouble in troubles]


def keep(tried: int) -> None:
    """
    Record how many attacks were tried; all of them went well.
    """
    record(
        Evidence(
            name="attacks",
            promise="Every request gets a status or the end of its connection; a refused"
            " request moves nothing, and the bytes after it are not executed.",
            size=tried,
            unit="raw requests",
            result=f"{len(TABLE)} kinds, on uvloop, on Twisted's reactor and through"
            " nginx, whole and in pieces: no 5xx, no silence, no step without a"
            " response",
            command="make attacks",
        )
    )


def main() -> None:
    """
    Run the whole table, the crowds and the slow clients.
    """
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    tried = 0
    with tempfile.TemporaryDirectory() as path, fronts(Path(path)) as them:
        for name, front in them.items():
            wrong = front.try_all(PROMPT)
            for seed in range(rounds):
                wrong += try_cut(front, PROMPT, seed)
            tried += len(PROMPT) * (rounds + 1)
            print(f"{name}: {len(PROMPT) * (rounds + 1):,} attacks", flush=True)
            assert not wrong, "\n".join(wrong)
        wrong = wait_all([*them.values()])
        tried += len(PATIENT) * len(them)
        assert not wrong, "\n".join(wrong)
    print(f"{tried:,} attacks of {len(TABLE)} kinds, as they should be", flush=True)
    keep(tried)
    crowds.main()
    hostile.main()
    slow.main()


if __name__ == "__main__":
    main()
