"""
The idempotency keys that a committer remembers.

An exclusive store only appends keys, and never looks up a key.  The process that has locked
the store has in its memory all keys that must be remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from pexservice.core.cursor import Transition

#: How many idempotency keys are remembered at least.  The oldest keys are forgotten first.
KEPT_KEYS = 100_000

#: The length of the longest idempotency key.  A key consists of visible ASCII characters.
MAX_IDEMPOTENCY_KEY_BYTES = 255

USE_FORMAT = ">cQQ"
_USE = Struct(USE_FORMAT)

#: The size of a packed use of a key, in bytes.
USE_SIZE = _USE.size

#: Packs the use of a key: the code of the transition, the revision and the position.  The
#: result is bytes and no tuple, because the garbage collector does not visit bytes.
pack_use = _USE.pack

#: The keys that must be remembered fill this many generations of L{RememberedKeys}.  New
#: keys are added to one more generation.
_FULL_GENERATIONS = 8


class KeyUse(NamedTuple):
    """
    The first use of an idempotency key: its transition, and the state after it.
    """

    transition: Transition
    revision: int
    position: int


def unpack_use(use: bytes) -> KeyUse:
    """
    @raise ValueError: there is no such transition.
    """
    code, revision, position = _USE.unpack(use)
    return KeyUse(Transition(code), revision, position)


class RememberedKeys:
    """
    At least the last L{KEPT_KEYS} keys, each with its first use.

    The keys are in several dictionaries, the I{generations}, and the oldest generation is
    forgotten as a whole.  A single dictionary would block the process for 7 to 9 ms at each
    resize.

    100,000 keys of 36 characters take 20 MB, and keys of 255 characters 40 MB.
    """

    def __init__(self, kept_keys: int = KEPT_KEYS) -> None:
        self._generation_size = -(-kept_keys // _FULL_GENERATIONS)
        self._generations: deque[dict[bytes, bytes]] = deque(
            [{}], maxlen=_FULL_GENERATIONS + 1
        )

    def __len__(self) -> int:
        return sum(map(len, self._generations))

    def add(self, keys: Mapping[bytes, bytes]) -> None:
        """
        Remember C{keys}, which are newer than all remembered keys, with their packed uses.
        """
        newest = self._generations[0]
        if len(newest) >= self._generation_size:
            newest = {}
            self._generations.appendleft(newest)
        newest.update(keys)

    def find(self, key: bytes) -> KeyUse | None:
        """
        Return the first use of C{key}, or C{None} if the key is not remembered.
        """
        for generation in self._generations:
            use = generation.get(key)
            if use is not None:
                return unpack_use(use)
        return None
