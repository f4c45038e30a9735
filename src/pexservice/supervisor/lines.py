"""
A child's output, line by line.
"""

from __future__ import annotations

from collections.abc import Callable

#: A line is cut at this length; the rest is another line.  Bytes.
LONGEST_LINE = 8192


class Lines:
    """
    A cutter of a stream of bytes into lines, of whatever length, in bounded memory.
    """

    def __init__(self, line_received: Callable[[str], object]) -> None:
        self._line_received = line_received
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """
        Take more bytes, and pass on the lines that are complete.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for each in lines:
            self._cut(each)
        while len(self._rest) > LONGEST_LINE:
            self._pass_on(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def end(self) -> None:
        """
        Pass on a last line that no newline ended.
        """
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""

    def _cut(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, LONGEST_LINE):
            self._pass_on(line[start : start + LONGEST_LINE])

    def _pass_on(self, line: bytes) -> None:
        self._line_received(line.decode("utf-8", "backslashreplace"))
