"""
The pauses of a client before it asks again: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

#: The first pause of the back-off, which doubles, and the longest.  Seconds.  A standby
#: takes over in milliseconds, so the first is short.
FIRST = 0.025
LONGEST = 1.0


def back_off(attempt: int, chance: float) -> float:
    """
    Return the pause after the C{attempt}-th failure, counted from 0.

    Half of the pause is left to chance, so that clients that failed together do not come
    back together.

    @param chance: a random number from 0 to 1.
    """
    longest = min(FIRST * 2.0 ** min(attempt, 16), LONGEST)
    return longest * (1 + chance) / 2


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """
    Return how long an answer asks to wait, in seconds.

    The time is 0 if the answer does not ask, or not in a way that can be understood.

    @param headers: the headers of the answer, by their names in lower case.
    @param now: seconds since the epoch, for a date from a server that tells no time.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        # An hour stands for anything longer: no call waits for so long.
        return float(value) if len(value) <= 4 else 3600.0  # noqa: PLR2004 digits
    until = _seconds(value)
    if until is None:
        return 0.0
    told = _seconds(headers.get("date", ""))
    return max(until - (now if told is None else told), 0.0)


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
