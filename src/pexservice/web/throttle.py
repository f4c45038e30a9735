"""
The rate limit: how many requests a second one client address may send.

L{pexservice.web.performer.Performer.charge} asks this limit, and answers 429.

By the generic cell rate algorithm, only the time is kept for each address at which its
allowance would be whole again.  An address without such a time, or with one that has gone
by, has the whole allowance, which is one second's worth; so times in the past can be
forgotten, and memory is bounded by the addresses that asked within the last second, and in
a flood of addresses by L{MOST_ADDRESSES}.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pexservice.web.clients import network

#: When as many addresses are known, those that asked longest ago are forgotten.
#: About 10 MiB.
MOST_ADDRESSES = 65536


class RateLimit:
    """
    The rate limit of one worker, by client address.

    @ivar rate: requests a second.
    """

    def __init__(self, rate: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._cost = 1 / rate
        # And a little, for what sums of fractions round away.
        self._burst = 1 - self._cost + 1e-9
        self._seconds = seconds
        # In the order of the latest request.
        self._whole_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._whole_at)

    def take(self, host: str) -> bool:
        """
        Return whether the client at C{host} may have another request.

        A refused request costs the client nothing.

        @param host: its IP address; without one, C{""}.
        """
        name = network(host)
        now, known = self._seconds(), self._whole_at
        # To the end of the order.
        whole_at = max(known.pop(name, now), now)
        allowed = whole_at - now <= self._burst
        known[name] = whole_at + self._cost if allowed else whole_at
        if len(known) > MOST_ADDRESSES:
            self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        past = [name for name, whole_at in self._whole_at.items() if whole_at <= now]
        for name in past or list(self._whole_at)[: MOST_ADDRESSES // 4]:
            del self._whole_at[name]
