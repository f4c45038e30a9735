"""
The size of a test: many tests have a short form, and a long one for C{--long}.
"""

from __future__ import annotations

from typing import TypeVar

_Amount = TypeVar("_Amount")

_long = False


def set_long(long: bool) -> None:  # noqa: FBT001 the option's value
    """
    Choose the form.  This must happen before pytest imports the tests.
    """
    global _long  # noqa: PLW0603 a run has one form
    _long = long


def amount(*, short: _Amount, long: _Amount) -> _Amount:
    """
    Return the value of the chosen form.

    Both forms check the same.  The long form repeats it more often, to find rare faults.
    """
    return long if _long else short
