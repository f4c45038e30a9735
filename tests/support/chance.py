"""
Random choices that every version of Python makes alike.

Of Python's C{random}, only the method C{random} is documented to return the same numbers
for the same seed in later versions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """
    The choices that follow from one seed.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 nothing secret

    def below(self, limit: int) -> int:
        """
        Return a number from 0 to C{limit - 1}.
        """
        return int(self._random.random() * limit)

    def choose(self, values: Sequence[T]) -> T:
        """
        Return one of C{values}.
        """
        return values[self.below(len(values))]

    def happens(self, probability: float) -> bool:
        """
        Return C{True} with C{probability}.
        """
        return self._random.random() < probability

    def pieces(self, data: bytes, most_cuts: int) -> list[bytes]:
        """
        Return C{data} cut at up to C{most_cuts} places.
        """
        cuts = sorted(self.below(len(data) + 1) for _ in range(1 + self.below(most_cuts)))
        edges = [0, *cuts, len(data)]
        pieces = [data[start:end] for start, end in pairwise(edges)]
        return [piece for piece in pieces if piece]
