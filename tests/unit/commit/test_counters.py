"""
The counters of the committer.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.commit.counters import (
    APPLIED,
    DURATIONS,
    NOT_TAKEN,
    PRECONDITION_FAILED,
    SIZES,
    Counts,
    Histogram,
)
from pexservice.core.cursor import Transition


@given(st.lists(st.floats(0, 10)))
def test_a_histogram(values: list[float]) -> None:
    """
    Each bound of a histogram counts the values that do not exceed it.

    This is Prometheus's rule.  The last bound counts all values.
    """
    bounds = (0.0, 0.5, 2.0, 7.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    assert list(histogram.cumulative()) == [
        (bound, sum(value <= bound for value in values)) for bound in (*bounds, math.inf)
    ]
    assert histogram.total == pytest.approx(math.fsum(values))


def test_the_classes_ascend() -> None:
    """
    The bounds of each histogram ascend, or some would never be counted in.
    """
    for bounds in (DURATIONS, SIZES):
        assert list(bounds) == sorted(set(bounds))


def test_transitions() -> None:
    """
    Transitions are counted by kind and outcome, and every pair is there from the beginning.
    """
    counts = Counts()
    pairs = {(kind, outcome): count for kind, outcome, count in counts.transitions()}
    assert len(pairs) == 3 * 5
    assert set(pairs.values()) == {0}
    counts.count(APPLIED, b"nnpnr")
    counts.count(APPLIED, b"n")
    counts.count(PRECONDITION_FAILED, b"p")
    counts.count(NOT_TAKEN, bytearray(b"r"))
    assert [each for each in counts.transitions() if each[2]] == [
        (Transition.NEXT, "moved", 4),
        (Transition.PREVIOUS, "moved", 1),
        (Transition.RESET, "moved", 1),
        (Transition.PREVIOUS, "unmet", 1),
        (Transition.RESET, "not_taken", 1),
    ]
