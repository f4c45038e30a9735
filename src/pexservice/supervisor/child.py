"""
A child of the supervisor: its start, its end, and the delay before the next one.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from attrs import frozen
from twisted.python.failure import Failure

#: A child that was up and lived for this long is followed by another at once.  Seconds.
LIVED = 1.0

#: How long the next child waits otherwise: at first, and at most.  Seconds.
SHORTEST_DELAY = 0.05
LONGEST_DELAY = 5.0


@frozen
class Command:
    """
    The command that starts a worker.

    @ivar descriptors: the file descriptors that the worker inherits besides its output
        and its messages: the number there, and ours.
    @ivar verifies: whether the worker reads the whole store before it serves.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, int]
    verifies: bool = False


class RestartDelay:
    """
    The delay before the next start of a child.

    The delay doubles with each process that came neither to serve nor to stand by.
    """

    def __init__(self) -> None:
        self._next = SHORTEST_DELAY

    def after(self, lived: float, *, was_up: bool) -> float:
        """
        Return the seconds until the next start, after a child lived for C{lived} seconds.

        @param was_up: whether it came to serve or to stand by.
        """
        if was_up:
            self.reset()
            if lived >= LIVED:
                return 0.0
        delay, self._next = self._next, min(2 * self._next, LONGEST_DELAY)
        return delay

    def reset(self) -> None:
        """
        Begin with the shortest delay again.
        """
        self._next = SHORTEST_DELAY


@frozen
class End:
    """
    The end of a child.

    @ivar code: the child's exit status, or the number of the signal that ended it with a
        minus, as C{subprocess} has it.
    """

    code: int

    @classmethod
    def of(cls, reason: Failure) -> End:
        """
        Return the end that Twisted describes by a C{ProcessDone} or C{ProcessTerminated}.
        """
        number = getattr(reason.value, "signal", None)
        if number is not None:
            return cls(-number)
        return cls(getattr(reason.value, "exitCode", None) or 0)

    def __str__(self) -> str:
        if self.code >= 0:
            return f"with status {self.code}"
        # Not every signal has a name.
        names = {each.value: each.name for each in signal.Signals}
        return f"by {names.get(-self.code, f'signal {-self.code}')}"
