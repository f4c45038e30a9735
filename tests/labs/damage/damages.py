"""
Damages that can happen to a store's file.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.labs.damage.originals import Original

#: The size of a page on the machine that the laboratory runs on.  Bytes.
SIZE = 4096

Damage = Callable[[bytearray, int, Original, random.Random], None]

#: Offsets in a page that mean the most: its header, and where its records begin.
_HEAD = 48


def one_bit(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    Turn one bit over.
    """
    data[page * SIZE + chance.randrange(SIZE)] ^= 1 << chance.randrange(8)


def one_bit_of_the_head(
    data: bytearray, page: int, _: Original, chance: random.Random
) -> None:
    """
    Turn one bit over where a page says what it is; of a meta page, anywhere in it.
    """
    length = 152 if page < 2 else _HEAD
    data[page * SIZE + chance.randrange(length)] ^= 1 << chance.randrange(8)


def bits(data: bytearray, page: int, original: Original, chance: random.Random) -> None:
    """
    Turn some bits over, the first of them in the page.
    """
    for _ in range(chance.randrange(2, 6)):
        one_bit(data, page, original, chance)
        page = chance.randrange(len(data) // SIZE)


def zero_byte(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    Zero one byte that is not zero.
    """
    begin = page * SIZE
    there = [at for at in range(begin, begin + SIZE) if data[at]]
    if there:
        data[chance.choice(there)] = 0


def zero_page(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    Zero the page, or the end of it.
    """
    begin = page * SIZE + chance.choice((0, 0, 512, 2048))
    data[begin : (page + 1) * SIZE] = bytes((page + 1) * SIZE - begin)


def swap(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    Exchange two pages; often each gets the other's number.
    """
    other = chance.randrange(len(data) // SIZE)
    keep = chance.choice((0, 8))
    first, second = page * SIZE + keep, other * SIZE + keep
    length = SIZE - keep
    data[first : first + length], data[second : second + length] = (
        data[second : second + length],
        data[first : first + length],
    )


def overwrite(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    Put a copy of another page in the place of this one; often with its number.
    """
    other = chance.randrange(len(data) // SIZE)
    keep = chance.choice((0, 8))
    data[page * SIZE + keep : (page + 1) * SIZE] = data[
        other * SIZE + keep : (other + 1) * SIZE
    ]


def older_page(
    data: bytearray, page: int, original: Original, chance: random.Random
) -> None:
    """
    Put back what the page was some commits ago, as after a write that was lost.
    """
    _put_back(data, [page], chance.choice(original.earlier))


def older_pages(
    data: bytearray, page: int, original: Original, chance: random.Random
) -> None:
    """
    Put back this page and some of the pages that the last commits changed.

    The result is like a store after some writes that were lost.

    Never put back both meta pages of more than one commit.  With the others they are a
    whole store of that time, like a copy that an operator made.
    """
    earlier = chance.choice(original.earlier)
    changed = [
        number
        for number in range(min(len(earlier), len(data)) // SIZE)
        if data[number * SIZE : (number + 1) * SIZE]
        != earlier[number * SIZE : (number + 1) * SIZE]
    ]
    lost = {page, *chance.sample(changed, chance.randrange(len(changed) + 1))}
    if earlier is not original.earlier[0] and {0, 1} <= lost:
        lost.discard(chance.randrange(2))
    _put_back(data, sorted(lost), earlier)


def _put_back(data: bytearray, pages: list[int], earlier: bytes) -> None:
    for page in pages:
        then = earlier[page * SIZE : (page + 1) * SIZE]
        data[page * SIZE : page * SIZE + len(then)] = then


def cut(data: bytearray, page: int, _: Original, chance: random.Random) -> None:
    """
    End the file where the page begins, or within the page.
    """
    del data[page * SIZE + chance.choice((0, chance.randrange(SIZE))) :]


DAMAGES: tuple[Damage, ...] = (
    *(one_bit, one_bit_of_the_head, one_bit_of_the_head, bits, zero_byte, zero_page),
    *(swap, overwrite, older_page, older_page, older_pages, cut),
)
