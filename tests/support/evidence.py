"""
The results of the fault-injection tests for docs/reliability.md.

Each fault-injection test calls L{record} at its end.  C{python -m tests.support.evidence}
writes the largest run of each test into the page.
"""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from attrs import asdict, frozen

ROOT = Path(__file__).parents[2]

#: One file for each fault-injection test, with its largest run so far.
KEPT = ROOT / "build" / "evidence"

PAGE = ROOT / "docs" / "reliability.md"

_BEGIN = "<!-- what follows is written by make evidence -->"
_END = "<!-- and this is its end -->"


@frozen(kw_only=True)
class Evidence:
    """
    The result of one run of a fault-injection test.

    @ivar name: the name of the test, one word.
    @ivar promise: the guarantee that the test checks, in the words of a user.
    @ivar size: how much was tried.
    @ivar unit: what C{size} counts.
    @ivar result: what the run found, with numbers.
    @ivar command: the command that repeats the run.
    """

    name: str
    promise: str
    size: int
    unit: str
    result: str
    command: str
    date: str = ""
    machine: str = ""


def record(evidence: Evidence) -> None:
    """
    Keep this result unless the result of a larger run is kept.
    """
    path = KEPT / f"{evidence.name}.json"
    if path.exists() and json.loads(path.read_text())["size"] > evidence.size:
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = asdict(evidence) | {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"Linux {platform.release()}, Python {platform.python_version()}",
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


def table() -> list[str]:
    """
    Return all kept results as a Markdown table.
    """
    lines = ["| promise | size of the run | result | command |", "|---|---:|---|---|"]
    machines, dates = set(), set()
    for path in sorted(KEPT.glob("*.json")):
        kept = Evidence(**json.loads(path.read_text()))
        machines.add(kept.machine)
        dates.add(kept.date)
        lines.append(
            f"| {kept.promise} | {kept.size:,} {kept.unit} | {kept.result}"
            f" | `{kept.command}` |"
        )
    run = f"Run from {min(dates)} to {max(dates)} on {'; '.join(sorted(machines))}."
    return [*lines, "", run]


def main() -> None:
    """
    Write the table into the page.
    """
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text("\n".join([before + _BEGIN, "", *table(), "", _END]) + after)
    sys.stdout.write("\n".join([*table(), ""]))


if __name__ == "__main__":
    main()
