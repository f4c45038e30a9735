"""
The delays between attempts.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from pexservice.client.retrying import (
    FIRST_DELAY_SECONDS,
    MAX_DELAY_SECONDS,
    backoff,
    parse_retry_after,
)


def test_backoff_doubles_up_to_its_limit_and_half_of_it_is_random() -> None:
    for attempt in (0, 1, 2, 10_000):
        longest = min(FIRST_DELAY_SECONDS * 2 ** min(attempt, 16), MAX_DELAY_SECONDS)
        delays = [backoff(attempt) for _ in range(500)]
        assert longest / 2 <= min(delays) < 0.6 * longest
        assert 0.9 * longest < max(delays) <= longest


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("", 0), (" 7 ", 7), ("9" * 5000, 3600), ("-1", 0), ("²", 0), ("soon", 0)),
        ("Tue, 24 Nov 2026 11:50:19 GMT", 0),
        ("Tue, 24 Nov 99999999 11:50:24 GMT", 0),
    ],
)
def test_retry_after_that_is_no_number_and_no_later_date_is_no_delay(
    value: str, seconds: float
) -> None:
    assert parse_retry_after({"retry-after": value}) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = formatdate(time.time() + 3000, usegmt=True)
    assert 0 < parse_retry_after({"retry-after": date}) <= 3000
    later = formatdate(time.time() + 30000, usegmt=True)
    assert parse_retry_after({"retry-after": later}) == parse_retry_after(
        {"retry-after": "30000"}
    )
