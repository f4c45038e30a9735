"""
Numbers of any length.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.client.state import is_number, number


@given(st.integers(min_value=0, max_value=10**4000), st.integers(0, 600))
def test_number_is_what_the_interpreter_would_convert(value: int, zeros: int) -> None:
    assert number("0" * zeros + str(value)) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1_0", " 1", "1\n", "0x1", "1e3", "\u0661", "\u00b2"]
)
def test_text_that_only_python_reads_as_a_number_is_refused(text: str) -> None:
    assert not is_number(text)
