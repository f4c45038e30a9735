"""
Exact terms of the Fibonacci sequence, at any position, at linear cost a step.

Pure: no Twisted, no store, no clock.

Values are C{decimal.Decimal} because a service hands out I{text}.  Both the
addition that makes a step and the conversion to digits are linear in the number
of digits there, while the text of an C{int} takes quadratic time and is refused
by Python beyond 4,300 digits (F(20,578)).  At position 1,000,000 (208,988
digits) a step takes 0.02 ms and its text 0.3 ms; C{docs/benchmarks.md} has the
table.

The context has the largest precision there is and traps C{decimal.Inexact}, so a
result is either exact or an exception, never rounded.
"""

from __future__ import annotations

from decimal import (
    MAX_EMAX,
    MAX_PREC,
    MIN_EMIN,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)

_EXACT = Context(
    prec=MAX_PREC,
    Emin=MIN_EMIN,
    Emax=MAX_EMAX,
    traps=[Inexact, InvalidOperation, Overflow, DivisionByZero],
)


class Term:
    """
    One term of the sequence, together with the following term.

    A step in either direction needs no more than these two.  A term is immutable by
    convention; the digits are made once, when they are first asked for.

    @ivar position: n, 0 or more.
    @ivar value: F(n).
    @ivar following: F(n+1).
    """

    __slots__ = ("_text", "following", "position", "value")

    def __init__(self, position: int, value: Decimal, following: Decimal) -> None:
        self.position = position
        self.value = value
        self.following = following
        self._text: bytes | None = None

    @property
    def text(self) -> bytes:
        """
        Return the decimal digits of F(n) as ASCII, without a newline.
        """
        text = self._text
        if text is None:
            text = self._text = digits(self.value)
        return text

    @property
    def size(self) -> int:
        """
        Return how many digits F(n) has, without making them.
        """
        return self.value.adjusted() + 1

    @property
    def preceding(self) -> Decimal | None:
        """
        Return F(n-1), or C{None} at position 0, where the sequence begins.
        """
        if self.position == 0:
            return None
        return _EXACT.subtract(self.following, self.value)

    def forward(self) -> Term:
        """
        Return the term at n+1.
        """
        return Term(
            self.position + 1,
            self.following,
            _EXACT.add(self.value, self.following),
        )

    def backward(self) -> Term:
        """
        Return the term at n-1, or this term at position 0.
        """
        if self.position == 0:
            return self
        return Term(
            self.position - 1,
            _EXACT.subtract(self.following, self.value),
            self.value,
        )

    def __repr__(self) -> str:
        # Never the value: a repr ends up in logs, and F(100,000) has 20,899 digits.
        return f"<Term at position {self.position}>"


ORIGIN = Term(0, Decimal(0), Decimal(1))

#: The most that L{Neighbours} keeps: terms, and digits in all, which with the text are
#: about 1.5 bytes each.
MOST_NEIGHBOURS = 1024
MOST_DIGITS = 4_000_000

#: Digits of F(n) by n: log10 of the golden ratio.
_DIGITS_A_POSITION = 0.20898764


class Neighbours:
    """
    The terms that a cursor has lately been at.

    With them, a cursor that goes to and fro makes each value and its digits once.  The
    terms that were made first are dropped first.
    """

    def __init__(self) -> None:
        self._known = {0: ORIGIN}
        self._digits = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def forward(self, term: Term) -> Term:
        """
        Return the term after C{term}.
        """
        known = self._known.get(term.position + 1)
        return self._keep(term.forward()) if known is None else known

    def backward(self, term: Term) -> Term:
        """
        Return the term before C{term}, or C{term} itself at position 0.
        """
        known = self._known.get(term.position - 1 if term.position else 0)
        return self._keep(term.backward()) if known is None else known

    def _keep(self, term: Term) -> Term:
        known = self._known
        known[term.position] = term
        self._digits += term.position * _DIGITS_A_POSITION
        while len(known) > MOST_NEIGHBOURS or self._digits > MOST_DIGITS:
            oldest = next(iter(known))
            del known[oldest]
            self._digits -= oldest * _DIGITS_A_POSITION
        return term


def digits(value: Decimal) -> bytes:
    """
    Return the decimal digits of C{value}, a non-negative integer, as ASCII.
    """
    return str(value).encode("ascii")


def term_at(position: int) -> Term:
    """
    Return the term at C{position}, by fast doubling.

    The cost is one round of three multiplications for each bit of C{position}, 21 ms at
    1,000,000.

    @raise ValueError: C{position} is negative.
    """
    if position < 0:
        raise ValueError(f"the sequence has no position {position}")
    add, subtract, multiply = _EXACT.add, _EXACT.subtract, _EXACT.multiply
    value, following = Decimal(0), Decimal(1)
    # From (F(k), F(k+1)) to (F(2k), F(2k+1)), one bit of the position at a time:
    #   F(2k)   = F(k) * (2 F(k+1) - F(k))
    #   F(2k+1) = F(k)^2 + F(k+1)^2
    for bit in f"{position:b}":
        doubled = multiply(value, subtract(add(following, following), value))
        doubled_following = add(multiply(value, value), multiply(following, following))
        if bit == "0":
            value, following = doubled, doubled_following
        else:
            value, following = doubled_following, add(doubled, doubled_following)
    return Term(position, value, following)
