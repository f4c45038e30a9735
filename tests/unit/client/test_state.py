"""
Numbers of any length.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.client.state import is_number, number
from pexservice.core.sequence import term_at


@given(st.integers(min_value=0, max_value=10**4000), st.integers(0, 600))
def test_number_is_what_the_interpreter_would_convert(value: int, zeros: int) -> None:
    assert number("0" * zeros + str(value)) == value


def test_number_may_exceed_the_interpreters_limit_which_stays_as_it_is() -> None:
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
def test_text_that_only_python_reads_as_a_number_is_refused(text: str) -> None:
    assert not is_number(text)
