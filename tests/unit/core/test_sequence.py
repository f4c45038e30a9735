"""
Tests of the sequence against an independent computation: Python integers, no decimals.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.core.sequence import (
    FIRST_TERM,
    MAX_CACHED_DIGITS,
    MAX_CACHED_TERMS,
    TermCache,
    term_at,
)
from tests.support.forms import amount

#: The text of such a value takes Python a while.
FAR = amount(short=100_000, long=1_000_000)


@pytest.fixture(autouse=True)
def unlimited_int_digits() -> Iterator[None]:
    """
    Allow conversion of long integers to text, which only the reference computation needs.
    """
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


def fibonacci(position: int) -> tuple[int, int]:
    """
    Return F(position) and F(position + 1) by additions of integers.
    """
    value, following = 0, 1
    for _ in range(position):
        value, following = following, value + following
    return value, following


def test_term_at_equals_an_integer_computation() -> None:
    for position in (*range(1001), 20_577, 20_578, FAR):
        term = term_at(position)
        value, following = fibonacci(position)
        assert (term.position, term.size) == (position, len(str(value)))
        assert term.text.decode() == str(value)
        assert term.following_text.decode() == str(following)
        assert term.forward().following_text.decode() == str(value + following)
        if position:
            assert term.preceding_text == str(following - value).encode()


def test_position_0_has_no_predecessor_and_backward_stays_there() -> None:
    assert FIRST_TERM.preceding_text is None
    assert FIRST_TERM.backward() is FIRST_TERM
    with pytest.raises(ValueError, match="-1"):
        term_at(-1)


def test_the_text_of_a_term_is_computed_once() -> None:
    term = term_at(100)
    assert term.text is term.text
    assert term.preceding_text is term.preceding_text
    assert term.following_text is term.following_text


@given(st.integers(0, 3000), st.lists(st.booleans(), max_size=200))
def test_each_step_with_or_without_a_cache_leads_to_the_term_of_its_position(
    position: int, steps: list[bool]
) -> None:
    terms, term = TermCache(), term_at(position)
    for up in steps:
        position = position + 1 if up else max(position - 1, 0)
        computed = term.forward() if up else term.backward()
        term = terms.forward(term) if up else terms.backward(term)
        expected = term_at(position)
        for found in (computed, term):
            assert (found.position, found.value, found.following) == (
                position,
                expected.value,
                expected.following,
            )


def test_moving_back_and_forth_returns_the_cached_terms() -> None:
    terms = TermCache()
    there = terms.forward(term_at(1000))
    back = terms.backward(there)
    assert terms.forward(back) is there
    assert terms.backward(there) is back


def test_the_term_cache_is_bounded_by_terms_and_by_digits() -> None:
    terms, term = TermCache(), FIRST_TERM
    for _ in range(2 * MAX_CACHED_TERMS):
        term = terms.forward(term)
    assert len(terms._terms) == MAX_CACHED_TERMS
    term = term_at(1_000_000)
    for _ in range(50):
        term = terms.forward(term)
    assert len(terms._terms) <= MAX_CACHED_DIGITS / 200_000


def test_repr_of_a_term_does_not_contain_the_value() -> None:
    assert repr(term_at(100_000)) == "<Term at position 100000>"
