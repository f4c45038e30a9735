"""
A cache with a bounded number of entries.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class GenerationalCache(Generic[K, V]):
    """
    A cache of two generations, each with at most C{size} entries.

    When the recent generation is full, it becomes the old generation, and the previous old
    generation is dropped.  C{get} copies an entry of the old generation into the recent
    one.  So a flood of new entries does not drop an entry that is read often.

    @ivar recent: the recent generation.  To save a call, a reader may look here first, and
        call C{get} if the key is missing.
    """

    __slots__ = ("_old", "_size", "recent")

    def __init__(self, size: int) -> None:
        self._size = size
        self.recent: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        value = self.recent.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        if len(self.recent) >= self._size:
            self._old, self.recent = self.recent, {}
        self.recent[key] = value

    def clear(self) -> None:
        self.recent, self._old = {}, {}
