"""
What is known of requests: plans, which are found by what heads say, and the shapes that
heads of one client have.
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
    How the answers to requests of one kind are framed.

    @ivar version: of HTTP, as C{b"HTTP/1.1"}.
    @ivar connection: the value of the answer's C{Connection} header, if it has one.
    @ivar last: whether the connection ends with the answer.
    """

    version: bytes
    connection: bytes | None
    last: bool


@frozen(eq=False)
class Plan:
    """
    What requests of one kind mean, and how they are answered and counted.
    """

    operation: Operation
    framing: Framing
    tally: Tally


@define(eq=False)
class Recognized:
    """
    A request that was recognized.

    @ivar line: its request line.
    @ivar call: what was made of its arguments, if these are the same each time.
    """

    plan: Plan
    arguments: Arguments
    line: bytes
    call: Call | None = None


@frozen(eq=False)
class Hole:
    """
    The one line of a shape's heads that differs, when it was of one header before.

    @ivar begin: what such a head begins with, up to the value.
    @ivar argument: the name of the argument that the value is, if it is one.
    @ivar kept: whether such a line may be kept.
    """

    begin: bytes
    argument: bytes | None
    kept: bool


@define(eq=False)
class Shape:
    """
    What the heads of a client have in common: they begin and end alike.

    @ivar lines: how many lines stand before and behind the rest.
    @ivar key: what these say, as L{Head.key}; likewise C{arguments}.
    @ivar line: the request line.
    @ivar plan: that of a head whose rest decides nothing.
    @ivar whole: what a head means whose rest makes no difference.
    @ivar hole: what the last head had in the place of the rest, if it was one line that
        does not decide.
    @ivar used: how often it was; halved when others look for room.
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
        Fit no head any more: connections may still have it.
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
