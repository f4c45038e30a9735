"""
What a service tells of its cursor.
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
    Where the cursor is.

    Numbers are made of their digits when they are asked for, which a caller who needs the
    revision only does not.  An answer without the digits, as an event has it where they are
    many, has those that the sequence has at its position.

    @ivar revision: how many steps were made since the store was.
    @ivar position: the index of the value.
    @ivar replayed: the step had been made before, with the same key.
    """

    revision: int
    position: int
    replayed: bool = False
    _sent: Sent | None = field(default=None, repr=False, eq=False)

    @cached_property
    def value(self) -> int:
        """
        The value at the cursor.
        """
        return number(self.digits)

    @cached_property
    def previous(self) -> int | None:
        """
        The value before it, or C{None} at position 0.
        """
        return None if self.previous_digits is None else number(self.previous_digits)

    @cached_property
    def next(self) -> int:
        """
        The value after it.
        """
        return number(self.next_digits)

    @property
    def digits(self) -> str:
        """
        The decimal digits of the value.
        """
        return self._digits.current

    @property
    def previous_digits(self) -> str | None:
        """
        Those of the value before it, or C{None} at position 0.
        """
        return self._digits.previous

    @property
    def next_digits(self) -> str:
        """
        Those of the value after it.
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
