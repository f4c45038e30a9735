"""
The states and steps of a cursor, as a service reports them.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from itertools import zip_longest

from attrs import field, frozen

from pexservice.core.sequence import term_at

#: How many digits L{number} converts at a time.  The limit of C{int} can be changed, but
#: not to fewer than 640 digits.
_PIECE_DIGITS = 512


def is_number(text: object) -> bool:
    """
    Return whether C{text} is a non-negative number in ASCII digits.
    """
    return isinstance(text, str) and text.isascii() and text.isdigit()


def number(text: str) -> int:
    """
    Return the number with the decimal digits C{text}, for which L{is_number} is true.

    C{int} refuses more than 4,300 digits by default, because its algorithm is quadratic.
    So this function converts short pieces, and combines them by multiplication.
    """
    # The lowest digits come first.
    pieces = [
        int(text[max(end - _PIECE_DIGITS, 0) : end])
        for end in range(len(text), 0, -_PIECE_DIGITS)
    ]
    base = 10**_PIECE_DIGITS
    while len(pieces) > 1:
        pairs = zip_longest(pieces[::2], pieces[1::2], fillvalue=0)
        pieces = [low + base * high for low, high in pairs]
        base *= base
    return pieces[0]


@frozen
class Digits:
    """
    The decimal digits of three neighbouring values.
    """

    current: str
    previous: str | None
    next: str


@frozen(kw_only=True)
class State:
    """
    A state of the cursor.

    A response has the values as digits.  This class converts a value to an integer when the
    program reads the value.  If there are no digits, for example in an event with a long
    value, this class computes the values from the position.

    @ivar revision: how many steps were made since the store was created.
    @ivar position: the value is the Fibonacci number at this position.
    @ivar replayed: whether an earlier request with the same key had made the step.
    """

    revision: int
    position: int
    replayed: bool = False
    _received: Digits | None = field(default=None, repr=False, eq=False)

    @cached_property
    def value(self) -> int:
        """
        Return the value at the cursor.
        """
        return number(self.digits)

    @cached_property
    def previous(self) -> int | None:
        """
        Return the value before the cursor, or C{None} at position 0.
        """
        return None if self.previous_digits is None else number(self.previous_digits)

    @cached_property
    def next(self) -> int:
        """
        Return the value after the cursor.
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
    def _digits(self) -> Digits:
        if self._received is not None:
            return self._received
        term = term_at(self.position)
        preceding = term.preceding_text
        return Digits(
            term.text.decode(),
            None if preceding is None else preceding.decode(),
            term.following_text.decode(),
        )


@frozen(kw_only=True)
class Step:
    """
    One step of the history.

    @ivar transition: C{next}, C{previous} or C{reset}.
    @ivar time: when the step was made.
    """

    revision: int
    position: int
    transition: str
    time: datetime
