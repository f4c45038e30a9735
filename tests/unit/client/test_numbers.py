"""
Numbers of any length.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.client.numbers import is_number, number
from pexservice.core.sequence import term_at


@given(st.integers(min_value=0, max_value=10**4000), st.integers(0, 600))
def test_as_the_interpreter(value: int, zeros: int) -> None:
    """
    A number is that of its digits, however many they are.
    """
    assert number("0" * zeros + str(value)) == value


def test_beyond_the_limit() -> None:
    """
    A number can have more digits than the interpreter converts.

    The interpreter's limit stays as it is, even the lowest that there can be.
    """
    before = sys.get_int_max_str_digits()
    value = number(term_at(50_000).text.decode())
    assert value == int(term_at(50_000).value)
    assert sys.get_int_max_str_digits() == before
    sys.set_int_max_str_digits(640)
    try:
        assert number(term_at(50_000).text.decode()) == value
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1_0", " 1", "1\n", "0x1", "1e3", "\u0661", "\u00b2"]
)
def test_no_numbers(text: str) -> None:
    """
    Text that Python would take for a number, and a service never sends, is refused.
    """
    assert not is_number(text)
    with pytest.raises(ValueError, match="digits 0 to 9 only"):
        number(text)
