"""
The recognition of plain heads: the meaning of a request, read off its lines.

A plain head is one that every parser reads alike: one request in one chunk of bytes,
without a body, with one valid C{Host}, each line strictly C{name: value}, within all
limits, and nothing that frames it another way.  Any other head is left to
L{pexservice.server.parser}.

The meaning of a line is kept for a while, for clients send the same lines again and again.
There are two generations: a line that is used stays, and a flood of new lines pushes out
those that are not used.  No line is kept that has a secret, or that another request will
not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, cast

from pexservice.web.parameters import (
    AUTHORIZATION,
    FORWARDED_FOR,
    HEADERS,
    HOST,
    IDEMPOTENCY_KEY,
    Use,
)

#: The longest plain head, in bytes, and the most header lines that one has: no limit of
#: the parser is met.
LONGEST_HEAD = 8192
MOST_HEADERS = 100

#: How many lines a generation has, and the longest that is kept, in bytes: 2 MiB at worst.
MOST_KNOWN = 1024
LONGEST_KNOWN = 512

#: Headers whose lines are not kept.
_NOT_KEPT = frozenset(
    {
        *(AUTHORIZATION, FORWARDED_FOR, IDEMPOTENCY_KEY),
        *(b"cookie", b"proxy-authorization"),
    }
)

#: A value: nothing but what every parser takes, and no blank before or behind it.
VALUE = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")

_LINE = re.compile(rb"([A-Za-z0-9!#$%%&'*+.^_`|~-]+): (%b)" % VALUE.pattern)

#: Neither quotes nor backslashes, which the access log would have to escape.
_REQUEST_LINE = re.compile(rb"(GET|HEAD|POST) (/[a-z]*)(?:\?[!#-\[\]-~]*)? (HTTP/1\.[01])")

#: RFC 3986's host and port, as far as its characters go.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")


def is_host(value: bytes) -> bool:
    """
    Return whether C{value} is valid as that of a C{Host} header.
    """
    return _HOST.fullmatch(value) is not None


class Line(NamedTuple):
    """
    The meaning of one line of a head.

    @ivar slot: the line's place in a L{Head.key}, if it decides which operation is meant.
    @ivar meaning: the value in that place.
    @ivar name: the name of the argument that the line is, if it is one; likewise its
        C{value}.
    @ivar kept: whether to keep the line.
    """

    slot: int | None = None
    meaning: Hashable = None
    name: bytes | None = None
    value: bytes = b""
    kept: bool = True


#: Lines that make no difference.
_IGNORED = Line()
_SECRET = Line(kept=False)


class _Rule(NamedTuple):
    """
    The rule by which the lines of one header are read.

    @ivar slot: as L{Line.slot}.
    @ivar tell: returns the meaning of a value, if the header decides.
    @ivar name: as L{Line.name}.
    @ivar kept: as L{Line.kept}.
    """

    slot: int | None = None
    tell: Callable[[bytes], Hashable] | None = None
    name: bytes | None = None
    kept: bool = True


_NO_RULE = _Rule()

#: The slot of the request line.
_REQUEST = 0

Arguments = dict[bytes, list[bytes]]
Key = tuple[Hashable, ...]


class Head(NamedTuple):
    """
    The meaning of a plain head.

    @ivar key: the values that decide which operation is meant: the method, the path and the
        version, then the meaning of each deciding header, C{None} without one.
    @ivar new: the numbers of the first and the last line that were not known, if any.
    """

    key: Key
    arguments: Arguments
    lines: list[bytes]
    new: tuple[int, int] | None


class Reader:
    """
    A reader of plain heads, which remembers lines.
    """

    def __init__(
        self, meanings: Mapping[bytes, Callable[[bytes], Hashable]], *, logs: bool = False
    ) -> None:
        """
        Make a reader that remembers no line yet.

        @param meanings: for each header that decides which operation is meant, the function
            that returns the meaning of its value: never C{None} but for one that is not
            plain.
        @param logs: whether headers that are logged are arguments.
        """
        slots = {name: slot for slot, name in enumerate(meanings, 1)}
        argument = Use.ARGUMENT | Use.LOGGED if logs else Use.ARGUMENT
        self._slots = len(slots)
        # To ask what a header is for is slow, so it is asked once.
        self._rules: dict[bytes, _Rule | None] = dict.fromkeys(_NOT_KEPT, _Rule(kept=False))
        for name, use in HEADERS.items():
            self._rules[name] = (
                None
                if use is Use.PARSED
                else _Rule(
                    slots[name] if use & Use.DECIDES else None,
                    meanings.get(name),
                    name if use & argument else None,
                    name not in _NOT_KEPT,
                )
            )
        self._known: dict[bytes, Line] = {}
        self._known_before: dict[bytes, Line] = {}
        self._seen: set[bytes] = set()

    def read(self, head: bytes) -> Head | None:
        """
        Return the meaning of C{head}, if it is plain.
        """
        lines = head[:-4].split(b"\r\n")
        if (
            len(head) > LONGEST_HEAD
            or len(lines) > 1 + MOST_HEADERS
            or not head.endswith(b"\r\n\r\n")
        ):
            return None
        key: list[Hashable] = [None] * (1 + self._slots)
        arguments: Arguments = {}
        first, last = len(lines), -1
        for number, line in enumerate(lines):
            said = self._known.get(line)
            if said is None:
                said = self._known_before.get(line)
                if said is None:
                    first, last = min(first, number), number
                    said = self.parse(line) if number else _parse_request_line(line)
                    if said is None:
                        return None
                self._keep(line, said)
            if said is not _IGNORED and not add(said, key, arguments):
                return None
            if not number and key[_REQUEST] is None:
                return None
        found = tuple(key)
        if not has_its_host(found, arguments):
            return None
        return Head(found, arguments, lines, None if last < 0 else (first, last))

    def known(self, line: bytes) -> Line | None:
        """
        Return the meaning of a line that was read before and kept.
        """
        return self._known.get(line)

    def _keep(self, line: bytes, said: Line) -> None:
        if said.kept and len(line) <= LONGEST_KNOWN:
            if len(self._known) >= MOST_KNOWN:
                self._known_before, self._known = self._known, {}
            self._known[line] = said

    def notice(self, line: bytes, said: Line) -> None:
        """
        Keep a line if it comes a second time: the first may be one of many that differ.
        """
        if said.kept and self.has_seen(line):
            self._keep(line, said)

    def has_seen(self, line: bytes) -> bool:
        """
        Take note of a line that may be kept, and return whether it has come before.
        """
        if line in self._seen:
            return True
        if len(line) <= LONGEST_KNOWN:
            if len(self._seen) >= MOST_KNOWN:
                self._seen.clear()
            self._seen.add(line)
        return False

    def parse(self, line: bytes) -> Line | None:
        """
        Return the meaning of a header line, if it is plain.
        """
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        spelled, value = found.groups()
        rule = self._rules.get(spelled.lower(), _NO_RULE)
        if rule is None or (rule.name == HOST and not is_host(value)):
            return None
        slot, tell, name, kept = rule
        meaning = None
        if tell is not None:
            meaning = tell(value)
            if meaning is None:
                return None
        if name is not None:
            return Line(slot, meaning, name, value, kept)
        if slot is not None:
            return Line(slot, meaning)
        return _IGNORED if kept else _SECRET


def _parse_request_line(line: bytes) -> Line | None:
    found = _REQUEST_LINE.fullmatch(line)
    return None if found is None else Line(_REQUEST, found.groups())


def add(said: Line, key: list[Hashable], arguments: Arguments) -> bool:
    """
    Add the meaning of a line to that of its head, in C{key} and C{arguments}.

    @return: whether the head may still be plain: no header that decides comes twice.
    """
    slot = said.slot
    if slot is not None:
        if key[slot] is not None:
            return False
        key[slot] = said.meaning
    if said.name is not None:
        arguments.setdefault(said.name, []).append(said.value)
    return True


def has_its_host(key: Key, arguments: Arguments) -> bool:
    """
    Return whether a head has the one C{Host} that its version asks for.
    """
    hosts = arguments.get(HOST)
    if hosts is None:
        _, _, version = cast(tuple[bytes, bytes, bytes], key[_REQUEST])
        return version == b"HTTP/1.0"
    return len(hosts) == 1
