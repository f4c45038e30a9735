"""
System calls that fail, a sample of them; C{make faults} tries them all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.labs.faults.lab import Laboratory, prepare, run
from tests.labs.faults.phases import BOTH, CONNECTION, PHASES, STORE, UVLOOP

pytestmark = pytest.mark.once

#: By phase, calls and what they are on.
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
def test_no_failing_system_call_causes_a_wrong_response(tmp_path: Path) -> None:
    """
    The disk has the state before or after the step, and a restart serves that state.
    """
    laboratory = Laboratory(tmp_path / "store")
    prepare(laboratory.prepared)
    columns = [
        (phase, kind.first())
        for phase in PHASES
        if phase.reactor == UVLOOP
        for kind in phase.kinds
        if (kind.call, kind.on) in SAMPLE.get(phase.name, ())
    ]
    assert len(columns) == sum(map(len, SAMPLE.values()))
    run(laboratory, columns, longest=2)
    assert laboratory.wrong == []
    assert laboratory.injections > len(columns)
    assert laboratory.totals()["outcome unknown; ended"] > 0
    laboratory.keep()
