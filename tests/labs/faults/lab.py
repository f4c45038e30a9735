"""
Every system call that matters fails once, and once for good.

For each thing that a worker does, the first call of each kind fails, then the second,
and so on until one run meets no such call any more.  After each of them the answers must
be true, and an untouched worker must find on disk the state before or after, never
another.

C{python -m tests.labs.faults.lab} tries all calls and prints the outcomes; the tests try
some.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from attrs import Factory, define

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.remembered_keys import pack_use
from tests.labs.faults.phases import KEY, PHASES, PREPARED, Case, Kind, Phase
from tests.labs.faults.tampered import WORKER, Fault, injected, store_option
from tests.support.clients import whole_history
from tests.support.conversation import At, Conversation, Expected
from tests.support.daemon import Daemon
from tests.support.evidence import Evidence, record
from tests.support.fakes import now
from tests.support.inline_executor import inline

#: No column has so many calls; one that has would never end.
LONGEST = 300

#: How many runs at a time.
PARALLEL = 3

#: The words on the page, by the words in an outcome.
_SUMMARY = {
    "did not start": "starts refused with one line that says why",
    "outcome unknown": "times 503 outcome-unknown",
    "broken": "broken connections",
    "WRONG": "wrong",
}


def prepare(path: Path) -> None:
    """
    Make a store in C{path} that went up to L{PREPARED}, step by step, each with a key.
    """
    store = LmdbStore(Directory(str(path)), inline(), verify=lambda _: None)
    now(store.open())
    for number in range(1, PREPARED + 1):
        keys = {b"%d" % number: pack_use(Transition.NEXT.code, number, number)}
        before, after = Cursor(number - 1, number - 1), Cursor(number, number)
        now(store.commit(Batch(before, b"n", after, time_ns=0, keys=keys)))
    now(store.close())


# What must hold afterwards.


def check_disk(path: Path, expected: Expected, options: Sequence[str]) -> None:
    """
    Check that an untouched worker starts, with a state that may be.

    @raise AssertionError: the state is another.
    """
    with (
        Daemon(path, *store_option(path), *options, command=WORKER) as daemon,
        closing(Conversation(daemon.port)) as conversation,
    ):
        shown = conversation.read("/current")
        assert shown is not None
        at = shown[0]
        assert at in expected.possible, f"{at} is on disk, possible: {expected.possible}"
        _check_history(daemon, at)
        # Taken or not, with its key a step is made once.
        known = conversation.ask("next", Idempotency_Key=KEY)
        again = conversation.ask("next", Idempotency_Key=KEY)
        assert known == again
        assert known.at is not None
        assert known.at[0] <= at[0] + 1


def _check_history(daemon: Daemon, at: At) -> None:
    rows = whole_history(daemon)
    if rows:
        assert (max(rows), rows[max(rows)][0]) == at
        assert sorted(rows) == [*range(min(rows), max(rows) + 1)]
    else:
        assert at == (0, 0)


def _description(error: AssertionError) -> str:
    """
    Return where C{error} was raised, and the end of the log.
    """
    *_, where = traceback.extract_tb(error.__traceback__)
    return "\n".join(
        [f"  line {where.lineno}, {where.line}", *str(error).splitlines()[-8:]]
    )


@define
class Laboratory:
    """
    The runs, each with one fault, and their outcomes.

    @ivar prepared: a store to start with.
    @ivar outcomes: by phase and reactor, the outcomes of the injections.
    @ivar wrong: the outcomes that must not be.
    """

    prepared: Path
    outcomes: dict[tuple[str, str], Counter[str]] = Factory(dict)
    wrong: list[str] = Factory(list)
    _lock: threading.Lock = Factory(threading.Lock)

    @property
    def injections(self) -> int:
        """
        Return how many injections there were.
        """
        return sum(outcome.total() for outcome in self.outcomes.values())

    def column(self, phase: Phase, kind: Kind, longest: int) -> None:
        """
        Fail the first call, then the second, and so on, until there is none.
        """
        failed = 0
        for error, forever in kind.failures():
            number = 1
            while number <= longest and self.try_fault(
                phase, Fault(kind.call, error, number, forever), kind.on
            ):
                number += 1
            failed += number - 1
            if not failed:
                # There is no such call.
                break
        name = f"{phase.name}, {phase.reactor}: {kind.call} on the {kind.on}"
        print(f"{name}: {failed}", file=sys.stderr, flush=True)

    def try_fault(self, phase: Phase, fault: Fault, on: str) -> bool:
        """
        Make one injection.

        @return: whether there was such a call.
        """
        with tempfile.TemporaryDirectory(prefix="faults-") as name:
            # strace compares paths as the kernel has them.
            path = Path(name).resolve()
            case = Case(path, phase, fault, on)
            (path / "disk").mkdir()
            expected = Expected({(0, 0)})
            if phase.prepared:
                shutil.copytree(self.prepared, path / "disk" / "store")
                expected = Expected({(PREPARED, PREPARED)})
            problem = ""
            try:
                outcome = phase.run(case, expected)
                check_disk(path, expected, phase.options)
            except AssertionError as error:
                outcome, problem = "WRONG", _description(error)
            met = injected(case.trace)
            with self._lock:
                if problem:
                    title = f"{phase.name}, {phase.reactor}: {fault} on the {on}"
                    self.wrong.append(f"{title}\n{problem}")
                    print(self.wrong[-1], flush=True)
                if met or problem:
                    row = self.outcomes.setdefault((phase.name, phase.reactor), Counter())
                    row[outcome] += 1
            return met

    def totals(self) -> Counter[str]:
        """
        Return the outcomes of all phases.
        """
        return sum(self.outcomes.values(), Counter())

    def keep(self) -> None:
        """
        Record the outcomes for the page.
        """
        summary: Counter[str] = Counter()
        for outcome, count in self.totals().items():
            effect = (words for mark, words in _SUMMARY.items() if mark in outcome)
            summary[next(effect, "as if nothing had been")] += count
        counted = ", ".join(f"{count:,} {words}" for words, count in summary.most_common())
        record(
            Evidence(
                name="faults",
                promise="Any system call may fail: no response is wrong, no state is lost,"
                " and a restart recovers.",
                size=self.injections,
                unit="failed calls",
                result=f"{len(self.wrong)} wrong; {counted}",
                command="make faults",
            )
        )


def run(
    laboratory: Laboratory, columns: Sequence[tuple[Phase, Kind]], longest: int
) -> None:
    """
    Try all C{columns}, a few at a time, with the first C{longest} calls of each.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        for done in [
            pool.submit(laboratory.column, *column, longest) for column in columns
        ]:
            done.result()


def main() -> None:
    """
    Try all calls, and print the outcomes.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--phase", default="", help="only phases whose name has this")
    parser.add_argument("--call", default="", help="only this call")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        laboratory = Laboratory(Path(name).resolve() / "store")
        prepare(laboratory.prepared)
        columns = [
            (phase, kind)
            for phase in PHASES
            if arguments.phase in phase.name
            for kind in phase.kinds
            if arguments.call in ("", kind.call)
        ]
        run(laboratory, columns, LONGEST)
    for (phase, reactor), row in sorted(laboratory.outcomes.items()):
        print(f"{phase}, {reactor}: {row.total():,}")
        for outcome, count in row.most_common():
            print(f"    {count:6,} {outcome}")
    print(f"{laboratory.injections:,} failed calls, {len(laboratory.wrong)} wrong")
    if laboratory.wrong:
        sys.exit(1)
    if not (arguments.phase or arguments.call):
        laboratory.keep()


if __name__ == "__main__":
    main()
