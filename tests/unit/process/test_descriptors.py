"""
The limit of open files.
"""

from __future__ import annotations

import resource

import pytest

from pexservice.process.descriptors import LEAST, RESERVE, check_limit, room_for
from pexservice.process.exit_status import CannotStart

UNLIMITED = resource.RLIM_INFINITY


class Limits:
    """
    The resource limits of an imaginary process.
    """

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = (soft, hard)

    def getrlimit(self, _: int) -> tuple[int, int]:
        """
        Return the limits.
        """
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        """
        Change the limits.
        """
        assert limits[1] == self.limits[1]
        self.limits = limits


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    """
    Give the process a soft and a hard limit of open files.
    """
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    return limits


@pytest.mark.parametrize(
    ("soft", "hard", "room", "then"),
    [
        (1024, 524_288, 10_000, 10_000 + RESERVE),
        (1024, UNLIMITED, 10_000, 10_000 + RESERVE),
        (1024, 4096, 4096 - RESERVE, 4096),
        (20_000, 20_000, 10_000, 20_000),
        (UNLIMITED, UNLIMITED, 10_000, UNLIMITED),
        (100, 100, 1, 100),
    ],
)
def test_room_for_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, room: int, then: int
) -> None:
    """
    The limit of open files is raised as far as allowed, and never lowered.
    """
    limits = limited(monkeypatch, soft, hard)
    assert room_for(10_000) == room
    assert limits.limits == (then, hard)


def test_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A process whose limit is too low even for the start names the number that it needs.
    """
    limited(monkeypatch, LEAST, LEAST)
    check_limit()
    limited(monkeypatch, UNLIMITED, UNLIMITED)
    check_limit()
    limited(monkeypatch, LEAST - 1, LEAST - 1)
    with pytest.raises(
        CannotStart, match=f"limit of open files is {LEAST - 1}, and {LEAST}"
    ):
        check_limit()
