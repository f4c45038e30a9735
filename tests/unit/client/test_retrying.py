"""
The delays between attempts.
"""

from __future__ import annotations

import pytest

from pexservice.client.retrying import (
    FIRST_DELAY_SECONDS,
    MAX_DELAY_SECONDS,
    backoff,
    retry_after,
)


def test_backoff_doubles_up_to_its_limit_and_half_of_it_is_random() -> None:
    assert backoff(0, 1.0) == FIRST_DELAY_SECONDS
    assert backoff(1, 1.0) == 2 * FIRST_DELAY_SECONDS
    assert backoff(10_000, 1.0) == MAX_DELAY_SECONDS
    for attempt in range(20):
        assert backoff(attempt, 0.0) == backoff(attempt, 1.0) / 2
        assert backoff(attempt, 0.5) <= backoff(attempt + 1, 0.5)


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
        # Without a Date header the client's own clock counts, which shows 11:50:22.
        ({"retry-after": LATER}, 2),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "²"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "Tue, 24 Nov 99999999 11:50:24 GMT"}, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_is_no_delay(
    headers: dict[str, str], seconds: float
) -> None:
    assert retry_after(headers, now=1795521022.0) == seconds
