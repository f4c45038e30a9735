"""
The pauses of a client.
"""

from __future__ import annotations

import pytest

from pexservice.client.pauses import FIRST, LONGEST, back_off, retry_after


def test_back_off() -> None:
    """
    The back-off grows to the longest pause, and half of each pause is left to chance.
    """
    assert back_off(0, 1.0) == FIRST
    assert back_off(1, 1.0) == 2 * FIRST
    assert back_off(10_000, 1.0) == LONGEST
    for attempt in range(20):
        assert back_off(attempt, 0.0) == back_off(attempt, 1.0) / 2
        assert back_off(attempt, 0.5) <= back_off(attempt + 1, 0.5)


DATE = "Tue, 24 Nov 2026 11:50:19 GMT"
LATER = "Tue, 24 Nov 2026 11:50:24 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "9" * 5000}, 3600),
        ({"retry-after": LATER, "date": DATE}, 5),
        ({"retry-after": DATE, "date": LATER}, 0),
        # The server sends no date, so the clock here counts, which shows 11:50:22.
        ({"retry-after": LATER}, 2),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "²"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "Tue, 24 Nov 99999999 11:50:24 GMT"}, 0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float) -> None:
    """
    Seconds and dates are understood, and a header that is neither asks for no wait.
    """
    assert retry_after(headers, now=1795521022.0) == seconds
