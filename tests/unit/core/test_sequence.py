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
    MOST_DIGITS,
    MOST_NEIGHBOURS,
    ORIGIN,
    Neighbours,
    digits,
    term_at,
)


@pytest.fixture(autouse=True)
def unlimited_int_digits() -> Iterator[None]:
    """
    Provide ints of any length as text.

    The reference needs them, and the service does without.
    """
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


def fibonacci(position: int) -> tuple[int, int]:
    """
    Return F(position) and F(position + 1) by matrix powers over integers.
    """

    def multiply(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
        # A symmetric matrix [[x, y], [y, z]] as (x, y, z).
        return (
            a[0] * b[0] + a[1] * b[1],
            a[0] * b[1] + a[1] * b[2],
            a[1] * b[1] + a[2] * b[2],
        )

    result, power = (1, 0, 1), (1, 1, 0)
    while position:
        if position & 1:
            result = multiply(result, power)
        power = multiply(power, power)
        position >>= 1
    return result[1], result[0]


def test_steps_from_the_origin() -> None:
    """
    Each of the first 1,000 steps forward gives the sum of the two before it.
    """
    term, value, following = ORIGIN, 0, 1
    for position in range(1001):
        assert (term.position, term.text, digits(term.following)) == (
            position,
            str(value).encode(),
            str(following).encode(),
        )
        term = term.forward()
        value, following = following, value + following


@pytest.mark.parametrize("position", [*range(1001), 20_577, 20_578, 100_000, 1_000_000])
def test_term_at(position: int) -> None:
    """
    A term reached by its position is exact, and so are both its neighbours.
    """
    term = term_at(position)
    value, following = fibonacci(position)
    assert term.position == position
    assert term.text.decode() == str(value)
    assert digits(term.following).decode() == str(following)
    assert digits(term.forward().following).decode() == str(value + following)
    if position:
        assert term.preceding is not None
        assert digits(term.preceding).decode() == str(following - value)


@given(st.integers(0, 3000))
def test_there_and_back(position: int) -> None:
    """
    A step back undoes a step forward.
    """
    term = term_at(position)
    back = term.forward().backward()
    assert (back.position, back.value, back.following) == (
        term.position,
        term.value,
        term.following,
    )


def test_nothing_before_the_origin() -> None:
    """
    The sequence has nothing before 0: no predecessor, and a step back stays.
    """
    assert ORIGIN.preceding is None
    assert ORIGIN.backward() is ORIGIN
    with pytest.raises(ValueError, match="-1"):
        term_at(-1)


def test_the_text_is_made_once() -> None:
    """
    The digits of a term are made once, however often it is read.
    """
    term = term_at(100)
    assert term.text is term.text


@given(st.lists(st.booleans(), max_size=200))
def test_neighbours_are_the_terms(steps: list[bool]) -> None:
    """
    A term that was kept equals the one that a step would make.
    """
    neighbours, term = Neighbours(), ORIGIN
    for up in steps:
        expected = term.forward() if up else term.backward()
        term = neighbours.forward(term) if up else neighbours.backward(term)
        assert (term.position, term.value, term.following) == (
            expected.position,
            expected.value,
            expected.following,
        )


def test_to_and_fro_makes_a_text_once() -> None:
    """
    A cursor that goes to and fro gets the same terms again, whose digits are made already.
    """
    neighbours = Neighbours()
    there = neighbours.forward(term_at(1000))
    back = neighbours.backward(there)
    assert neighbours.forward(back) is there
    assert neighbours.backward(there) is back


def test_neighbours_are_few() -> None:
    """
    Terms are kept up to a number, and large ones up to a number of digits.
    """
    neighbours, term = Neighbours(), ORIGIN
    for _ in range(2 * MOST_NEIGHBOURS):
        term = neighbours.forward(term)
    assert len(neighbours) == MOST_NEIGHBOURS
    term = term_at(1_000_000)
    for _ in range(50):
        term = neighbours.forward(term)
    assert len(neighbours) <= MOST_DIGITS / 200_000


def test_repr_has_no_value() -> None:
    """
    The repr of a term, as in a log line, does not have its digits: 20,899 of them here.
    """
    assert repr(term_at(100_000)) == "<Term at position 100000>"


@given(st.integers(0, 3000))
def test_size(position: int) -> None:
    """
    A term's size is the number of digits in its text.
    """
    term = term_at(position)
    assert term.size == len(term.text)
