"""
The ways in which a test damages the data file of a store.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.labs.damage.originals import Original

#: The size of a page on the test's machine.
PAGE_SIZE = 4096

Damage = Callable[[bytearray, int, Original, random.Random], None]

#: The most important bytes of a page: its header and the offsets of its records.
_HEAD_BYTES = 48


def _at(page: int, offset: int = 0) -> slice:
    """
    Return the slice of a page from C{offset} on.
    """
    return slice(page * PAGE_SIZE + offset, (page + 1) * PAGE_SIZE)


def one_bit(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Flip one bit.
    """
    data[page * PAGE_SIZE + rng.randrange(PAGE_SIZE)] ^= 1 << rng.randrange(8)


def one_bit_of_the_head(
    data: bytearray, page: int, _: Original, rng: random.Random
) -> None:
    """
    Flip one bit in the head of a page, or anywhere in the records of a meta page.
    """
    length = 152 if page < 2 else _HEAD_BYTES
    data[page * PAGE_SIZE + rng.randrange(length)] ^= 1 << rng.randrange(8)


def bits(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Flip some bits, the first one in this page.
    """
    for _ in range(rng.randrange(2, 6)):
        one_bit(data, page, original, rng)
        page = rng.randrange(len(data) // PAGE_SIZE)


def zero_byte(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Zero one byte that is not zero.
    """
    offsets = range(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
    nonzero_offsets = [offset for offset in offsets if data[offset]]
    if nonzero_offsets:
        data[rng.choice(nonzero_offsets)] = 0


def zero_page(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Zero the page, or the end of it.
    """
    page_start = page * PAGE_SIZE + rng.choice((0, 0, 512, 2048))
    data[page_start : (page + 1) * PAGE_SIZE] = bytes((page + 1) * PAGE_SIZE - page_start)


def swap(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Exchange two pages; in half of the cases, each keeps its page number.
    """
    other = rng.randrange(len(data) // PAGE_SIZE)
    kept_bytes = rng.choice((0, 8))
    first, second = page * PAGE_SIZE + kept_bytes, other * PAGE_SIZE + kept_bytes
    length = PAGE_SIZE - kept_bytes
    first_page = data[first : first + length]
    data[first : first + length] = data[second : second + length]
    data[second : second + length] = first_page


def overwrite(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Overwrite this page with a copy of another page; sometimes it keeps its number.
    """
    other = rng.randrange(len(data) // PAGE_SIZE)
    kept_bytes = rng.choice((0, 8))
    data[_at(page, kept_bytes)] = data[_at(other, kept_bytes)]


def older_page(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Restore this page from some commits ago, as if a write had been lost.
    """
    _put_back(data, [page], rng.choice(original.earlier))


def older_pages(data: bytearray, page: int, original: Original, rng: random.Random) -> None:
    """
    Restore this page and some of the pages that the last commits changed.

    The result is like a store after some lost writes.

    If several commits are undone, one of the meta pages stays.  With both meta pages, the
    damaged file could be a complete store of that time, like a copy that an operator made.
    """
    earlier = rng.choice(original.earlier)
    numbers = range(min(len(earlier), len(data)) // PAGE_SIZE)
    changed = [number for number in numbers if data[_at(number)] != earlier[_at(number)]]
    lost = {page, *rng.sample(changed, rng.randrange(len(changed) + 1))}
    if earlier is not original.earlier[0] and {0, 1} <= lost:
        lost.discard(rng.randrange(2))
    _put_back(data, sorted(lost), earlier)


def _put_back(data: bytearray, pages: list[int], earlier: bytes) -> None:
    for page in pages:
        earlier_page = earlier[_at(page)]
        data[page * PAGE_SIZE : page * PAGE_SIZE + len(earlier_page)] = earlier_page


def cut(data: bytearray, page: int, _: Original, rng: random.Random) -> None:
    """
    Truncate the file at the begin of the page, or within the page.
    """
    del data[page * PAGE_SIZE + rng.choice((0, rng.randrange(PAGE_SIZE))) :]


DAMAGES: tuple[Damage, ...] = (
    *(one_bit, one_bit_of_the_head, one_bit_of_the_head, bits, zero_byte, zero_page),
    *(swap, overwrite, older_page, older_page, older_pages, cut),
)
