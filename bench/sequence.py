"""
What a step costs far along the sequence: the first table of docs/benchmarks.md.

Each figure is the median of as many runs as fit into a quarter of a second.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from pexservice.sequence import digits, term_at

POSITIONS = (0, 1_000, 10_000, 100_000, 1_000_000)


def milliseconds(call: Callable[[], object]) -> float:
    """
    The median duration of C{call}.
    """
    durations: list[float] = []
    end = time.perf_counter() + 0.25
    while not durations or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return 1000 * statistics.median(durations)


def main() -> None:
    """
    Print the table.
    """
    print("| position | digits | getting there | a step | its text |")
    print("|---:|---:|---:|---:|---:|")
    for position in POSITIONS:
        term = term_at(position)
        row = (
            f"{position:,}",
            f"{len(term.text):,}",
            f"{milliseconds(partial(term_at, position)):.3f} ms",
            f"{milliseconds(term.forward):.4f} ms",
            f"{milliseconds(partial(digits, term.value)):.4f} ms",
        )
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
