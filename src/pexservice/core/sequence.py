"""
Exact terms of the Fibonacci sequence at any position.

Values are C{decimal.Decimal}, because the service sends decimal I{text}.  A step takes one
addition or subtraction.  The time for a step and the time for the conversion to text grow
linearly with the number of digits.  The value at position 1,000,000 has 208,988 digits; a
step takes 0.02 ms there, and the conversion takes 0.3 ms.  Converting an C{int} to text
takes quadratic time, and Python refuses this for more than 4,300 digits, from F(20,578) on.

The decimal context has the maximum precision and traps C{decimal.Inexact}.  So a value is
exact, or an exception is raised.
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
    One value of the sequence, together with the following value.

    A step in either direction needs only these two values.  No code changes them.  The
    texts of the value and of its neighbours are computed once, when they are first needed.

    @ivar position: n, 0 or more.
    @ivar value: F(n).
    @ivar following: F(n+1).
    """

    __slots__ = (
        "_following_text",
        "_preceding_text",
        "_text",
        "following",
        "position",
        "value",
    )

    def __init__(self, position: int, value: Decimal, following: Decimal) -> None:
        self.position = position
        self.value = value
        self.following = following
        self._text: bytes | None = None
        self._preceding_text: bytes | None = None
        self._following_text: bytes | None = None

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
    def preceding_text(self) -> bytes | None:
        """
        Return the digits of F(n-1), or C{None} at position 0.
        """
        text = self._preceding_text
        if text is None and self.position > 0:
            preceding = _EXACT.subtract(self.following, self.value)
            text = self._preceding_text = digits(preceding)
        return text

    @property
    def following_text(self) -> bytes:
        text = self._following_text
        if text is None:
            text = self._following_text = digits(self.following)
        return text

    @property
    def size(self) -> int:
        """
        Return the number of decimal digits of F(n), without computing the text.
        """
        return self.value.adjusted() + 1

    def forward(self) -> Term:
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
        # The value is omitted, because a repr may be logged, and F(100,000) has 20,899
        # digits.
        return f"<Term at position {self.position}>"


FIRST_TERM = Term(0, Decimal(0), Decimal(1))

#: The limits of a L{TermCache}: the number of its terms, and the sum of their digits.  A
#: term with its text takes about 1.5 bytes for each digit.  A response in JSON also needs
#: the texts of both neighbours, and then the term takes 3.5 bytes for each digit.
MAX_CACHED_TERMS = 1024
MAX_CACHED_DIGITS = 4_000_000

#: F(n) has about n times this many digits.  This number is log10 of the golden ratio.
_DIGITS_PER_POSITION = 0.20898764


class TermCache:
    """
    A cache of the terms that were computed last.

    So if the cursor moves back and forth, each term is computed only once.  A full cache
    drops the term that was added first.
    """

    def __init__(self) -> None:
        self._terms = {0: FIRST_TERM}
        self._digit_count = 0.0

    def forward(self, term: Term) -> Term:
        cached = self._terms.get(term.position + 1)
        return self._add(term.forward()) if cached is None else cached

    def backward(self, term: Term) -> Term:
        """
        Return the term before C{term}, or C{term} itself at position 0.
        """
        cached = self._terms.get(term.position - 1 if term.position else 0)
        return self._add(term.backward()) if cached is None else cached

    def _add(self, term: Term) -> Term:
        terms = self._terms
        terms[term.position] = term
        self._digit_count += term.position * _DIGITS_PER_POSITION
        while len(terms) > MAX_CACHED_TERMS or self._digit_count > MAX_CACHED_DIGITS:
            oldest = next(iter(terms))
            del terms[oldest]
            self._digit_count -= oldest * _DIGITS_PER_POSITION
        return term


def digits(value: Decimal) -> bytes:
    """
    Return the decimal digits of C{value}, a non-negative integer, as ASCII.
    """
    return str(value).encode("ascii")


def term_at(position: int) -> Term:
    """
    Return the term at C{position}, by fast doubling.

    Each bit of C{position} costs a few multiplications.  Position 1,000,000 takes 21 ms.

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
