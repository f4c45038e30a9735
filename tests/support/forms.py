"""
The forms of tests that have a short one for each day and a long one for C{--long}.
"""

from __future__ import annotations

from typing import TypeVar

_Amount = TypeVar("_Amount")

_long = False


def set_long(long: bool) -> None:  # noqa: FBT001 the option's value
    """
    Choose the forms, before the tests are imported.
    """
    global _long  # noqa: PLW0603 a run has one form
    _long = long


def amount(*, short: _Amount, long: _Amount) -> _Amount:
    """
    Return how much of something a test does, in the form that was asked for.

    The short form shows the same; it has fewer turns to find what is rare.
    """
    return long if _long else short
