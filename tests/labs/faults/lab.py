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
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

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
}

#: How often each outcome occurred, by phase, reactor and outcome.  If a run has failed a
#: check, its outcome begins with L{WRONG}.
Outcomes = Counter[tuple[str, str, str]]
WRONG = "WRONG: "


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


def fail_each_call(
    prepared: Path, max_calls: int, call_kind: tuple[Phase, Kind]
) -> Outcomes:
    """
    Make the first call of a kind fail, then the second, and so on, until there is none.
    """
    phase, kind = call_kind
    outcomes = Outcomes()
    for error, forever in kind.errors_with_duration():
        for number in range(1, max_calls + 1):
            fault = Fault(kind.call, error, number, forever)
            was_injected, outcome = try_fault(prepared, phase, fault, kind.target)
            if was_injected or outcome.startswith(WRONG):
                outcomes[phase.name, phase.reactor, outcome] += 1
            if not was_injected:
                break
        if not outcomes:
            # The phase makes no such call.
            break
    name = f"{phase.name}, {phase.reactor}: {kind.call} on the {kind.target}"
    print(f"{name}: {outcomes.total()}", file=sys.stderr, flush=True)
    return outcomes


def try_fault(prepared: Path, phase: Phase, fault: Fault, target: str) -> tuple[bool, str]:
    """
    Run a phase with one fault.

    @param prepared: a store to start with.
    @return: whether there was such a call, and the outcome.
    """
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        # strace compares resolved paths.
        path = Path(name).resolve()
        case = Case(path, phase, fault, target)
        (path / "disk").mkdir()
        expected = Expected({(0, 0)})
        if phase.prepared:
            shutil.copytree(prepared, path / "disk" / "store")
            expected = Expected({(PREPARED, PREPARED)})
        try:
            outcome = phase.run(case, expected)
            check_disk(path, expected, phase.options)
        except (AssertionError, subprocess.TimeoutExpired):
            outcome = f"{WRONG}{fault} on the {target}\n{traceback.format_exc(limit=-1)}"
            print(outcome, flush=True)
        return injected(case.trace), outcome


def run(call_kinds: Sequence[tuple[Phase, Kind]], max_calls: int) -> Outcomes:
    """
    Try all C{call_kinds}, a few at a time, with the first C{max_calls} calls of each.
    """
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as name,
        ThreadPoolExecutor(CONCURRENT_RUNS) as pool,
    ):
        prepared = Path(name) / "store"
        make_store_with_keys(prepared, PREPARED, key=lambda revision: b"%d" % revision)
        fail = partial(fail_each_call, prepared, max_calls)
        return sum(pool.map(fail, call_kinds), Outcomes())


def failures(outcomes: Outcomes) -> list[str]:
    return [outcome for *_, outcome in outcomes if outcome.startswith(WRONG)]


def record_outcomes(outcomes: Outcomes) -> None:
    summary: Counter[str] = Counter()
    for (*_, outcome), count in outcomes.items():
        effect = (words for mark, words in _SUMMARY.items() if mark in outcome)
        summary[next(effect, "without an effect")] += count
    counted = ", ".join(f"{count:,} {words}" for words, count in summary.most_common())
    record(
        "faults",
        promise="Any system call may fail: no response is wrong, no state is lost,"
        " and a restart recovers.",
        size=outcomes.total(),
        unit="failed calls",
        result=f"0 wrong; {counted}",
    )


def main() -> None:
    """
    Try all calls, and print the outcomes.
    """
    call_kinds = [(phase, kind) for phase in PHASES for kind in phase.kinds]
    outcomes = run(call_kinds, MAX_CALLS)
    for key, count in sorted(outcomes.items()):
        print(f"{count:6,} {', '.join(key)}")
    print(f"{outcomes.total():,} failed calls, {len(failures(outcomes))} wrong")
    if failures(outcomes):
        sys.exit(1)
    record_outcomes(outcomes)


if __name__ == "__main__":
    main()
