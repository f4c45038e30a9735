"""
The results of the fault-injection tests for docs/reliability.md.

Each fault-injection test calls L{record} at its end.  C{python -m tests.support.evidence}
writes the largest run of each test into the page.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: One file for each fault-injection test, with its largest run so far.
KEPT = ROOT / "build" / "evidence"

PAGE = ROOT / "docs" / "reliability.md"

_BEGIN = "<!-- what follows is written by make evidence -->"
_END = "<!-- and this is its end -->"


def record(
    name: str, *, promise: str, size: int, unit: str, result: str, command: str = ""
) -> None:
    """
    Keep the result of one run of a fault-injection test, unless a larger run is kept.

    @param name: the name of the test, one word.
    @param promise: the guarantee that the test checks, in the words of a user.
    @param size: how much was tried.
    @param unit: what C{size} counts.
    @param result: what the run found, with numbers.
    @param command: the command that repeats the run, if it is not C{make NAME}.
    """
    path = KEPT / f"{name}.json"
    if path.exists() and json.loads(path.read_text())["size"] > size:
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = {"promise": promise, "size": size, "unit": unit, "result": result}
    kept |= {"command": command or f"make {name}", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    kept["machine"] = f"Linux {platform.release()}, Python {platform.python_version()}"
    path.write_text(json.dumps(kept, indent=1) + "\n")


def run_lab(lab: Callable[[Path, int], object], size: int) -> None:
    """
    Run a fault-injection test in an empty directory, and print its result.

    @param size: the default of the argument on the command line, how much is tried.
    """
    with tempfile.TemporaryDirectory() as path:
        print(lab(Path(path), int(sys.argv[1]) if len(sys.argv) > 1 else size))


def table() -> list[str]:
    """
    Return all kept results as a Markdown table.
    """
    lines = ["| promise | size of the run | result | command |", "|---|---:|---|---|"]
    machines, dates = set(), set()
    for path in sorted(KEPT.glob("*.json")):
        kept = json.loads(path.read_text())
        machines.add(kept["machine"])
        dates.add(kept["date"])
        lines.append(
            "| {promise} | {size:,} {unit} | {result} | `{command}` |".format(**kept)
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
