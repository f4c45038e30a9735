"""
Each important system call fails once, and from then on.

In each phase of a worker, the first call of a kind fails, then the second, and so on, until
a run has fewer calls.  After each run, all responses must be true, and a worker without
faults must find the state before or after the step on disk.

C{python -m tests.labs.faults.lab} tries all calls and prints the outcomes; the test tries
some.
"""

from __future__ import annotations

import shutil
import subprocess
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

from tests.labs.faults.phases import (
    KEY,
    PHASES,
    PREPARED,
    At,
    Case,
    Conversation,
    Expected,
    Fault,
    Kind,
    Phase,
    store_option,
)
from tests.support.clients import whole_history
from tests.support.daemon import WORKER, Daemon
from tests.support.evidence import record
from tests.support.stores import make_store_with_keys
from tests.support.strace import injected

#: A safety net: no phase makes so many calls of one kind.
MAX_CALLS = 300

#: How many runs there are at a time.
CONCURRENT_RUNS = 3

#: The words of the summary, by words in the outcomes.
_SUMMARY = {
    "did not start": "starts refused with one line that gives the reason",
    "outcome unknown": "times 503 outcome-unknown",
    "broken": "broken connections",
    "WRONG": "wrong",
}


def make_prepared_store(path: Path) -> None:
    make_store_with_keys(path, PREPARED, key=lambda revision: b"%d" % revision)


# The checks after a run.


def check_disk(path: Path, expected: Expected, options: Sequence[str]) -> None:
    """
    Check that a worker without faults starts with one of the expected states.

    @raise AssertionError: the state is another one.
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
        # Whether the step with this key was stored before or not, it is made only once.
        first_response = conversation.ask("next", Idempotency_Key=KEY)
        second_response = conversation.ask("next", Idempotency_Key=KEY)
        assert first_response == second_response
        assert first_response.at is not None
        assert first_response.at[0] <= at[0] + 1


def _check_history(daemon: Daemon, at: At) -> None:
    rows = whole_history(daemon)
    if rows:
        assert (max(rows), rows[max(rows)][0]) == at
        assert sorted(rows) == [*range(min(rows), max(rows) + 1)]
    else:
        assert at == (0, 0)


@define
class FaultRuns:
    """
    All runs, each with one fault, and their outcomes.

    @ivar prepared: a store to start with.
    @ivar outcomes: how often each outcome occurred, by phase, reactor and outcome.
    @ivar failures: the descriptions of the runs that failed a check.
    """

    prepared: Path
    outcomes: Counter[tuple[str, str, str]] = Factory(Counter)
    failures: list[str] = Factory(list)
    _lock: threading.Lock = Factory(threading.Lock)

    def fail_each_call(self, phase: Phase, kind: Kind, max_calls: int) -> None:
        """
        Make the first call of a kind fail, then the second, and so on, until there is none.
        """
        failed = 0
        for error, forever in kind.errors_with_duration():
            number = 1
            while number <= max_calls and self.try_fault(
                phase, Fault(kind.call, error, number, forever), kind.target
            ):
                number += 1
            failed += number - 1
            if not failed:
                # The phase makes no such call.
                break
        name = f"{phase.name}, {phase.reactor}: {kind.call} on the {kind.target}"
        print(f"{name}: {failed}", file=sys.stderr, flush=True)

    def try_fault(self, phase: Phase, fault: Fault, target: str) -> bool:
        """
        Run a phase with one fault.

        @return: whether there was such a call.
        """
        with tempfile.TemporaryDirectory(prefix="faults-") as name:
            # strace compares resolved paths.
            path = Path(name).resolve()
            case = Case(path, phase, fault, target)
            (path / "disk").mkdir()
            expected = Expected({(0, 0)})
            if phase.prepared:
                shutil.copytree(self.prepared, path / "disk" / "store")
                expected = Expected({(PREPARED, PREPARED)})
            problem = ""
            try:
                outcome = phase.run(case, expected)
                check_disk(path, expected, phase.options)
            except (AssertionError, subprocess.TimeoutExpired):
                outcome, problem = "WRONG", traceback.format_exc(limit=-1)
            was_injected = injected(case.trace)
            with self._lock:
                if problem:
                    title = f"{phase.name}, {phase.reactor}: {fault} on the {target}"
                    self.failures.append(f"{title}\n{problem}")
                    print(self.failures[-1], flush=True)
                if was_injected or problem:
                    self.outcomes[phase.name, phase.reactor, outcome] += 1
            return was_injected

    def record_outcomes(self) -> None:
        summary: Counter[str] = Counter()
        for (*_, outcome), count in self.outcomes.items():
            effect = (words for mark, words in _SUMMARY.items() if mark in outcome)
            summary[next(effect, "without an effect")] += count
        counted = ", ".join(f"{count:,} {words}" for words, count in summary.most_common())
        record(
            "faults",
            promise="Any system call may fail: no response is wrong, no state is lost,"
            " and a restart recovers.",
            size=self.outcomes.total(),
            unit="failed calls",
            result=f"{len(self.failures)} wrong; {counted}",
        )


def run(runs: FaultRuns, call_kinds: Sequence[tuple[Phase, Kind]], max_calls: int) -> None:
    """
    Try all C{call_kinds}, a few at a time, with the first C{max_calls} calls of each.
    """
    with ThreadPoolExecutor(CONCURRENT_RUNS) as pool:
        for done in [
            pool.submit(runs.fail_each_call, *call_kind, max_calls)
            for call_kind in call_kinds
        ]:
            done.result()


def main() -> None:
    """
    Try all calls, and print the outcomes.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        runs = FaultRuns(Path(name).resolve() / "store")
        make_prepared_store(runs.prepared)
        call_kinds = [(phase, kind) for phase in PHASES for kind in phase.kinds]
        run(runs, call_kinds, MAX_CALLS)
    for key, count in sorted(runs.outcomes.items()):
        print(f"{count:6,} {', '.join(key)}")
    print(f"{runs.outcomes.total():,} failed calls, {len(runs.failures)} wrong")
    if runs.failures:
        sys.exit(1)
    runs.record_outcomes()


if __name__ == "__main__":
    main()
