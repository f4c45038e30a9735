"""
The counters of the committer.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.commit.counters import (
    Counts,
    Histogram,
)


@given(st.lists(st.floats(0, 10)))
def test_bound_of_a_histogram_counts_the_values_up_to_it(values: list[float]) -> None:
    """
    As in Prometheus. The last bound counts all values.
    """
    bounds = (0.0, 0.5, 2.0, 7.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    assert list(histogram.cumulative()) == [
        (bound, sum(value <= bound for value in values)) for bound in (*bounds, math.inf)
    ]
    assert histogram.total == pytest.approx(math.fsum(values))


def test_every_pair_of_transition_and_outcome_is_counted_from_0() -> None:
    counts = Counts()
    pairs = {(kind, outcome): count for kind, outcome, count in counts.transitions()}
    assert len(pairs) == 3 * 5
    assert set(pairs.values()) == {0}
