"""
How many nodes that want to move the same cursor get out of each other's way.

A compare-and-swap that loses costs etcd as much as one that wins.  So a node that has
lost waits a random while before the next one, and listens: if another node was faster
in that time, the watch says so, and the batch is applied to the new state without
having asked etcd.  Meanwhile more transitions come, so batches grow as they get rarer.
Who does not lose any more soon does not wait any more.

Pure: fed with outcomes and durations, draws no chance.
"""

from __future__ import annotations

#: The longest wait that is drawn from, in times of a usual transaction.
LONGEST = 8.0

#: What is waited at most, however slow etcd is.  Seconds.
LONGEST_WAIT = 0.1

#: The weight of the newest transaction in the usual one's duration.
NEWEST = 0.1


class Courtesy:
    """
    Of one node.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._usual = 0.0

    def longest(self) -> float:
        """
        Seconds, of which a random part is to be waited.
        """
        return min(self._level * self._usual, LONGEST_WAIT)

    def won(self, seconds: float) -> None:
        """
        A transaction that took so long.
        """
        self._took(seconds)
        self._level = self._level / 2 if self._level > 1 / 2 else 0.0

    def lost(self, seconds: float) -> None:
        """
        Another node was faster.
        """
        self._took(seconds)
        self._level = min(max(1.0, 2 * self._level), LONGEST)

    def _took(self, seconds: float) -> None:
        self._usual += (NEWEST if self._usual else 1.0) * (seconds - self._usual)
