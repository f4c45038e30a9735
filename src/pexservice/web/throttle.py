"""
The rate limit: how many requests a second one client address may send.

L{pexservice.web.performer.Performer.charge} checks this limit and returns 429.

This is the generic cell rate algorithm.  It stores one time for each address: when the
allowance, which is one second's worth of requests, will be complete again.  An address
without such a time, or with a past one, has its complete allowance.  So past times can be
forgotten, and memory is bounded by the addresses of the last second, or, in a flood of
addresses, by L{MAX_ADDRESSES}.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pexservice.web.clients import network

#: When there are more, those with the oldest requests are forgotten.  About 10 MiB.
MAX_ADDRESSES = 65536


class RateLimit:
    """
    The rate limit of one worker, by client address.

    @ivar rate: requests a second.
    """

    def __init__(self, rate: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._cost = 1 / rate
        # And a little more, because sums of fractions are rounded.
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
        if len(known) > MAX_ADDRESSES:
            self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        past = [name for name, whole_at in self._whole_at.items() if whole_at <= now]
        for name in past or list(self._whole_at)[: MAX_ADDRESSES // 4]:
            del self._whole_at[name]
