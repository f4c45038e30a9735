"""
The short form: a sample of the failing system calls; C{make faults} tries all.
"""

from __future__ import annotations

import pytest

from tests.labs.faults.lab import failures, record_outcomes, run
from tests.labs.faults.phases import BOTH, CONNECTION, PHASES, STORE, UVLOOP

pytestmark = pytest.mark.once

#: By phase: the calls, and their targets.
SAMPLE = {
    "start, new store": {("pwrite64", STORE), ("fsync", STORE), ("flock", STORE)},
    "start, its store": {("openat", STORE), ("mmap", STORE)},
    "step": {("writev", STORE), ("fdatasync", STORE), ("write", CONNECTION)},
    "reset": {("pwrite64", STORE), ("write,writev,pwrite64,pwritev", BOTH)},
    "steps, in the thread": {("fdatasync", STORE)},
    "history": {("write", CONNECTION)},
    "rotation": {("writev", STORE), ("fdatasync", STORE)},
    "connection": {("accept4", "any")},
    "shutdown": {("fdatasync", STORE)},
}


@pytest.mark.needs("strace")
def test_no_failing_system_call_causes_a_wrong_response() -> None:
    """
    The disk has the state before or after the step, and a restart serves that state.
    """
    call_kinds = [
        (phase, kind.with_first_error_only())
        for phase in PHASES
        if phase.reactor == UVLOOP
        for kind in phase.kinds
        if (kind.call, kind.target) in SAMPLE.get(phase.name, ())
    ]
    assert len(call_kinds) == sum(map(len, SAMPLE.values()))
    outcomes = run(call_kinds, max_calls=2)
    assert failures(outcomes) == []
    assert outcomes.total() > len(call_kinds)
    assert "outcome unknown; ended" in {outcome for *_, outcome in outcomes}
    record_outcomes(outcomes)
