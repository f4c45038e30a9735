"""
The states of a cursor and its steps, as a service tells them.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property

from attrs import field, frozen

from pexservice.client.numbers import number
from pexservice.core.sequence import digits, term_at


@frozen
class Sent:
    """
    The digits that an answer had.
    """

    current: str
    previous: str | None
    next: str


@frozen(kw_only=True)
class State:
    """
    A state of the cursor.

    Numbers are made from their digits when they are asked for, so a caller that needs the
    revision only does not pay for them.  Where an answer lacks the digits, as an event does
    if they are many, they are computed from the position.

    @ivar revision: how many steps were made since the store was made.
    @ivar position: the index of the value.
    @ivar replayed: whether the step had been made before, with the same key.
    """

    revision: int
    position: int
    replayed: bool = False
    _sent: Sent | None = field(default=None, repr=False, eq=False)

    @cached_property
    def value(self) -> int:
        """
        Return the value at the cursor.
        """
        return number(self.digits)

    @cached_property
    def previous(self) -> int | None:
        """
        Return the value before the cursor's, or C{None} at position 0.
        """
        return None if self.previous_digits is None else number(self.previous_digits)

    @cached_property
    def next(self) -> int:
        """
        Return the value after the cursor's.
        """
        return number(self.next_digits)

    @property
    def digits(self) -> str:
        """
        Return the decimal digits of the value.
        """
        return self._digits.current

    @property
    def previous_digits(self) -> str | None:
        """
        Return the decimal digits of the previous value, or C{None} at position 0.
        """
        return self._digits.previous

    @property
    def next_digits(self) -> str:
        """
        Return the decimal digits of the next value.
        """
        return self._digits.next

    @cached_property
    def _digits(self) -> Sent:
        if self._sent is not None:
            return self._sent
        term = term_at(self.position)
        preceding = term.preceding
        return Sent(
            term.text.decode(),
            None if preceding is None else digits(preceding).decode(),
            digits(term.following).decode(),
        )


@frozen(kw_only=True)
class Step:
    """
    A step that was made, as the history has it.

    @ivar transition: C{next}, C{previous} or C{reset}.
    @ivar time: when it was made.
    """

    revision: int
    position: int
    transition: str
    time: datetime
