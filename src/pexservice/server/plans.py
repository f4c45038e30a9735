"""
The plans of requests, and the shapes that the heads of one client have.

Plans are found by the meanings of heads.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define, frozen

from pexservice.server.plain_heads import Arguments, Key
from pexservice.server.request_counters import Tally
from pexservice.web.operations import Call, Operation

#: How many shapes a connection has, for heads that alternate.
MOST_ALTERNATING = 3


@frozen(eq=False)
class Framing:
    """
    The framing of the answers to requests of one kind.

    @ivar version: the version of HTTP, as C{b"HTTP/1.1"}.
    @ivar connection: the value of the answer's C{Connection} header, if it has one.
    @ivar last: whether the connection ends with the answer.
    """

    version: bytes
    connection: bytes | None
    last: bool


@frozen(eq=False)
class Plan:
    """
    The meaning of requests of one kind, and how they are answered and counted.
    """

    operation: Operation
    framing: Framing
    tally: Tally


@define(eq=False)
class Recognized:
    """
    A request that was recognized.

    @ivar line: its request line.
    @ivar call: the call that its arguments are bound to, if these are the same each time.
    """

    plan: Plan
    arguments: Arguments
    line: bytes
    call: Call | None = None


@frozen(eq=False)
class Hole:
    """
    The one line in which the heads of a shape differ, by the header that it was last.

    @ivar begin: the bytes that such a head begins with, up to the value.
    @ivar argument: the name of the argument that the value is, if it is one.
    @ivar kept: whether such a line may be kept.
    """

    begin: bytes
    argument: bytes | None
    kept: bool


@define(eq=False)
class Shape:
    """
    The beginning and the end that the heads of a client have in common.

    @ivar lines: how many lines stand before and behind the rest.
    @ivar key: the meaning of these lines, as L{Head.key}; likewise C{arguments}.
    @ivar line: the request line.
    @ivar plan: the plan of a head whose rest decides nothing.
    @ivar whole: the meaning of a head whose rest makes no difference.
    @ivar hole: the line that the last head had in the place of the rest, if that was one
        line that does not decide.
    @ivar used: how often the shape was used; halved when others look for room.
    """

    prefix: bytes
    suffix: bytes
    lines: int
    key: Key
    arguments: Arguments
    line: bytes
    plan: Plan | None
    whole: Recognized | None = None
    hole: Hole | None = None
    used: int = 0

    def forget(self) -> None:
        """
        Fit no head any more, though connections may still have this shape.
        """
        self.prefix = self.suffix = b"\n"
        self.arguments, self.line = {}, b""
        self.plan = self.whole = self.hole = None


class HasShapes(Protocol):
    """
    A connection, which knows its client's shapes, the latest first.
    """

    shapes: tuple[Shape, ...]


def prefer(connection: HasShapes, shape: Shape) -> None:
    """
    Have a connection try C{shape} first.
    """
    others = [each for each in connection.shapes if each is not shape]
    connection.shapes = (shape, *others[: MOST_ALTERNATING - 1])
