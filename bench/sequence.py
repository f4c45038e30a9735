"""
The cost of a step at far positions: the first table of docs/performance.md.

Each figure is the median of as many runs as fit into a quarter of a second.  The last two
columns are the costs with L{int} instead of L{decimal.Decimal}.
"""

from __future__ import annotations

import operator
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from pexservice.core.sequence import digits, term_at

POSITIONS = (0, 1_000, 10_000, 100_000, 1_000_000)


def milliseconds(call: Callable[[], object]) -> float:
    """
    Return the median duration of C{call}, in milliseconds.
    """
    durations: list[float] = []
    end = time.perf_counter() + 0.25
    while not durations or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return 1000 * statistics.median(durations)


def main() -> None:
    # By default, Python refuses to convert an int of more than 4,300 digits.
    sys.set_int_max_str_digits(0)
    print(
        "| position | digits | getting there | a step | its text | int: a step | its text |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for position in POSITIONS:
        term = term_at(position)
        value, following = int(term.value), int(term.following)
        row = (
            f"{position:,}",
            f"{len(term.text):,}",
            f"{milliseconds(partial(term_at, position)):.3f} ms",
            f"{milliseconds(term.forward):.4f} ms",
            f"{milliseconds(partial(digits, term.value)):.4f} ms",
            f"{milliseconds(partial(operator.add, value, following)):.4f} ms",
            f"{milliseconds(partial(str, value)):.4f} ms",
        )
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
