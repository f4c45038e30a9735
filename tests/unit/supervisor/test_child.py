"""
The ends of children, and the delay before the next one.
"""

from __future__ import annotations

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

from pexservice.supervisor.child import LIVED, LONGEST_DELAY, End, RestartDelay


def test_the_delay_doubles() -> None:
    """
    The delay after a child that ends at once doubles, up to a bound.
    """
    delay = RestartDelay()
    delays = [delay.after(0.0, was_up=False) for _ in range(9)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY, LONGEST_DELAY]


def test_child_that_was_up_and_lived_is_followed_at_once() -> None:
    """
    The next child that does not come up waits for the shortest delay again.
    """
    delay = RestartDelay()
    for _ in range(5):
        delay.after(0.0, was_up=False)
    assert delay.after(LIVED, was_up=True) == 0.0
    assert delay.after(LIVED - 0.01, was_up=True) == 0.05


def test_child_that_takes_long_to_fail_is_delayed_like_any_other() -> None:
    """
    A start that needs seconds until it fails is not repeated at once for ever.
    """
    delay = RestartDelay()
    assert [delay.after(3.0, was_up=False) for _ in range(3)] == [0.05, 0.1, 0.2]


def test_the_delay_is_reset() -> None:
    """
    A reset makes the delay short again.

    A reset comes, for example, when another child has shown that starting works.
    """
    delay = RestartDelay()
    for _ in range(5):
        delay.after(0.0, was_up=False)
    delay.reset()
    assert delay.after(0.0, was_up=False) == 0.05


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        (ProcessDone(0), 0, "with status 0"),
        (ProcessTerminated(74), 74, "with status 74"),
        (ProcessTerminated(None, 9), -9, "by SIGKILL"),
        (ProcessTerminated(None, 40), -40, "by signal 40"),
    ],
)
def test_ends(reason: Exception, code: int, text: str) -> None:
    """
    The end of a child is a number as in C{subprocess}, and words.

    Not every signal has a name.
    """
    end = End.of(Failure(reason))
    assert end.code == code
    assert str(end) == text
