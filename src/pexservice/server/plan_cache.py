"""
The plan cache: the meanings of requests, so that these need not be parsed again.

A request never has a second meaning here: a plan gets in only when Twisted's parser and
the Klein tree have just arrived at it, and is found again by the headers that decided it.
A request is recognized in three ways, each slower than the one before and leading to it:

  1. by its bytes, if the same bytes have come before;
  2. by its shape: a client mostly sends the same head but for a line or two, so the lines
     before and behind the differing ones are compared as a whole, and only the differing
     ones are read;
  3. by reading all lines.

A request that is not recognized, or that no plan is for yet, goes to the parser.
The meanings that decide are few, and so are the plans, however many values clients send;
L{MOST_PLANS} is never reached.  So a client that sends ever new heads can push out shapes
and lines, which costs other clients one more reading, but no plan.  No line with a secret
or a key is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from pexservice.server.plain_heads import (
    LONGEST_HEAD,
    MOST_HEADERS,
    VALUE,
    Arguments,
    Head,
    Key,
    Line,
    Reader,
    add,
    has_its_host,
)
from pexservice.server.plans import HasShapes, Hole, Plan, Recognized, Shape, prefer
from pexservice.web.operations import Call, Operation
from pexservice.web.parameters import HOST

#: There is one plan for each endpoint, method, version and meaning of the headers that
#: decide: some hundreds.
MOST_PLANS = 4096

#: How many requests a generation has that are recognized by their bytes, and the longest
#: of these, in bytes: both generations have 4 MiB at worst.
MOST_EXACT = 1024
LONGEST_EXACT = 2048

#: How many shapes there are, and the longest, in bytes: 2 MiB at worst; and how many lines
#: a shape leaves out at most.  To make a shape costs as much as reading some heads, and
#: clients whose heads have nothing in common would have one made each time, so only so many
#: are made in a second.
MOST_SHAPES = 1024
LONGEST_SHAPE = 2048
MOST_HOLES = 4
MOST_MADE = 256

#: How many of the latest shapes are tried on a connection that has none.
MOST_RECENT = 8


class PlanCache:
    """
    The plan cache of one worker.

    @ivar exact: requests by their bytes, for looking up and nothing else.
    """

    def __init__(
        self,
        bind: Callable[[Operation, Arguments], Call | None],
        meanings: Mapping[bytes, Callable[[bytes], Hashable]],
        *,
        logs: bool = False,
    ) -> None:
        """
        Make an empty cache.

        @param bind: checks arguments that will be the same each time; returns C{None} if
            they are refused.
        @param meanings: for each header that decides, the function that returns the meaning
            of its value.
        @param logs: whether the headers that are logged are arguments.
        """
        self.exact: dict[bytes, Recognized] = {}
        self._exact_before: dict[bytes, Recognized] = {}
        self._bind = bind
        self._reader = Reader(meanings, logs=logs)
        self._plans: dict[Key, Plan] = {}
        self._shapes: dict[tuple[bytes, bytes], Shape] = {}
        self._recent: tuple[Shape, ...] = ()
        self._may_make = MOST_MADE
        self._retired = False

    def __len__(self) -> int:
        return len(self._plans)

    def tick(self) -> None:
        """
        Begin another second, in which L{MOST_MADE} shapes may be made.
        """
        self._may_make = MOST_MADE

    def retire(self) -> None:
        """
        Forget all plans, and recognize no request any more.
        """
        self._retired = True
        for each in (self.exact, self._exact_before, self._plans):
            each.clear()

    def learn(self, head: bytes, plan: Plan) -> None:
        """
        Keep C{plan} as the meaning of C{head}, if that is plain.
        """
        if self._retired or len(self._plans) >= MOST_PLANS:
            return
        found = self._reader.read(head)
        if found is not None:
            self._plans.setdefault(found.key, plan)

    def recognize(self, head: bytes, connection: HasShapes) -> Recognized | None:
        """
        Return the meaning of C{head}, if it is known.
        """
        if not self._plans or len(head) > LONGEST_HEAD:
            return None
        recognized = self._by_shape(head, connection)
        if recognized is None:
            recognized = self._exact_before.get(head)
            if recognized is None:
                return self._by_lines(head, connection)
            self._keep(head, recognized)
        return recognized

    def _by_shape(self, head: bytes, connection: HasShapes) -> Recognized | None:
        shapes = connection.shapes
        for shape in shapes or self._recent:
            if head.startswith(shape.prefix) and head.endswith(shape.suffix):
                hole = shape.hole
                recognized = None if hole is None else self._fill_hole(hole, shape, head)
                if recognized is None:
                    recognized = self._fill(shape, head)
                if recognized is not None:
                    shape.used += 1
                    if not shapes or shapes[0] is not shape:
                        prefer(connection, shape)
                    return recognized
        return None

    def _by_lines(self, head: bytes, connection: HasShapes) -> Recognized | None:
        found = self._reader.read(head)
        if found is None:
            return None
        plan = self._plans.get(found.key)
        if plan is None:
            return None
        line, arguments, call = found.lines[0], found.arguments, None
        if found.new is not None:
            shape = self._shape(found, *found.new)
            if shape is not None:
                prefer(connection, shape)
        elif len(head) <= LONGEST_EXACT:
            # All its lines have come before.
            call = self._bind(plan.operation, arguments)
        recognized = Recognized(plan, arguments, line, call)
        if call is not None:
            self._keep(head, recognized)
        return recognized

    def _keep(self, head: bytes, recognized: Recognized) -> None:
        if len(self.exact) >= MOST_EXACT:
            self._exact_before, self.exact = self.exact, {}
        self.exact[head] = recognized

    def _shape(self, found: Head, first: int, last: int) -> Shape | None:
        """
        Return the shape of a head whose lines from C{first} to C{last} are new.
        """
        if not first or last - first >= MOST_HOLES or not self._may_make:
            return None
        before, behind = found.lines[:first], found.lines[last + 1 :]
        prefix = b"".join([line + b"\r\n" for line in before])
        suffix = b"".join([b"\r\n" + line for line in behind]) + b"\r\n\r\n"
        known = self._shapes.get((prefix, suffix))
        if known is not None or len(prefix) + len(suffix) > LONGEST_SHAPE:
            return known
        self._may_make -= 1
        key: list[Hashable] = [None] * len(found.key)
        arguments: Arguments = {}
        for line in (*before, *behind):
            said = self._reader.known(line)
            # New lines may have pushed this one out just now.
            if said is None or not add(said, key, arguments):
                return None
        whole = tuple(key)
        # Where the host is among the lines that are left out, each head decides anew.
        plan = self._plans.get(whole) if has_its_host(whole, arguments) else None
        count, line = len(before) + len(behind), found.lines[0]
        shape = Shape(prefix, suffix, count, whole, arguments, line, plan)
        if plan is not None:
            call = self._bind(plan.operation, arguments)
            shape.whole = Recognized(plan, arguments, line, call)
        while len(self._shapes) >= MOST_SHAPES:
            self._forget_one()
        self._shapes[prefix, suffix] = shape
        self._recent = (shape, *self._recent[: MOST_RECENT - 1])
        return shape

    def _forget_one(self) -> None:
        """
        Forget the oldest shape, or move it to the end if it was used.
        """
        which, shape = next(iter(self._shapes.items()))
        del self._shapes[which]
        if shape.used:
            shape.used //= 2
            self._shapes[which] = shape
        else:
            shape.forget()

    def _fill(self, shape: Shape, head: bytes) -> Recognized | None:
        """
        Return the meaning of C{head}, which has C{shape}, if it is known.
        """
        rest = head[len(shape.prefix) : len(head) - len(shape.suffix)].split(b"\r\n")
        if shape.lines + len(rest) > 1 + MOST_HEADERS:
            return None
        reader = self._reader
        read: list[Line] = []
        for line in rest:
            said = reader.known(line)
            if said is None:
                said = reader.parse(line)
                if said is None:
                    return None
                if said.name is not None:
                    reader.notice(line, said)
            elif line is rest[0] or line is rest[-1]:
                # This line does not differ: to read all lines makes a shape that leaves
                # out fewer.
                return None
            read.append(said)
        differing = [
            each for each in read if each.slot is not None or each.name is not None
        ]
        if not differing and shape.whole is not None:
            recognized: Recognized | None = shape.whole
        else:
            recognized = self._with(shape, differing)
        if len(rest) == 1 and recognized is not None:
            shape.hole = _hole(shape, rest[0], read[0])
        return recognized

    def _fill_hole(self, hole: Hole, shape: Shape, head: bytes) -> Recognized | None:
        """
        Return the meaning of C{head} if nothing in it is new but the value in the C{hole}.

        The head has C{shape}.  A line that comes again is left to L{_fill}, which keeps it.
        """
        begin, end = len(hole.begin), len(head) - len(shape.suffix)
        if not head.startswith(hole.begin) or VALUE.fullmatch(head, begin, end) is None:
            return None
        name, plan = hole.argument, shape.plan
        if name is None or plan is None:
            return shape.whole
        if hole.kept and self._reader.has_seen(head[len(shape.prefix) : end]):
            return None
        arguments = shape.arguments.copy()
        arguments[name] = [head[begin:end]]
        return Recognized(plan, arguments, shape.line)

    def _with(self, shape: Shape, differing: list[Line]) -> Recognized | None:
        """
        Return the meaning, if known, of a head with C{shape} and the lines C{differing}.
        """
        shared = shape.arguments
        arguments, plan = shared.copy(), shape.plan
        key: list[Hashable] | None = None
        for said in differing:
            name = said.name
            # The shape has values of this argument, in a list that all its heads share.
            if name in shared:
                return None
            if said.slot is not None or name == HOST:
                key, plan = key or list(shape.key), None
                if not add(said, key, arguments):
                    return None
            elif name is not None:
                arguments.setdefault(name, []).append(said.value)
        if plan is None:
            whole = shape.key if key is None else tuple(key)
            plan = self._plans.get(whole) if has_its_host(whole, arguments) else None
        return None if plan is None else Recognized(plan, arguments, shape.line)


def _hole(shape: Shape, line: bytes, said: Line) -> Hole | None:
    """
    Return the hole of a C{shape} whose heads differ in one C{line}, if it can have one.

    The value of that line must neither decide which plan the heads have nor need a check.
    """
    if shape.plan is None or said.slot is not None or said.name == HOST:
        return None
    name, separator, _ = line.partition(b": ")
    return Hole(shape.prefix + name + separator, said.name, said.kept)
