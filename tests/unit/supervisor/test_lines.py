"""
A child's output, line by line.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pexservice.supervisor.lines import LONGEST_LINE, Lines


@given(st.lists(st.binary(max_size=30)))
def test_lines(chunks: list[bytes]) -> None:
    """
    However the stream is cut, its lines come out whole, and nothing is lost.
    """
    received: list[str] = []
    lines = Lines(received.append)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
    whole = b"".join(chunks).split(b"\n")
    if whole[-1] == b"":
        whole.pop()
    assert received == [line.decode("utf-8", "backslashreplace") for line in whole]


@pytest.mark.parametrize("length", [LONGEST_LINE, LONGEST_LINE + 1, 1_000_000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_line(length: int, end: bytes) -> None:
    """
    A line that is too long is cut into lines of bounded length.
    """
    received: list[str] = []
    lines = Lines(received.append)
    for _ in range(length // 1000):
        lines.feed(b"x" * 1000)
    lines.feed(b"x" * (length % 1000) + end)
    lines.end()
    assert "".join(received) == "x" * length
    assert max(map(len, received)) <= LONGEST_LINE
