"""
The request memo: the same bytes mean the same request.

A client sends the same hundred bytes again and again, and parsing them costs more
than everything else that a step does.  So what a chunk of bytes was found to mean is
remembered, and the next time it is looked up.  There is still one parser and one
meaning: a plan gets in here only when Twisted's parser and the Klein tree have just
arrived at it, for a whole request that came alone and in which nothing counted but
its endpoint (see L{pexservice.web.meaning}).

Pure: bytes in, plans out.
"""

from __future__ import annotations

from attrs import frozen

from pexservice.commit.requests import Move
from pexservice.server.request_counters import Tally

#: The largest chunk that is remembered; browsers' requests are smaller.  Bytes.
LARGEST_CHUNK = 2048

#: How many are.  With the largest, 2 MiB and what Python adds.
MOST_PLANS = 1024


@frozen(eq=False)
class Variant:
    """
    What besides the state an answer depends on.

    @ivar version: of HTTP, as C{b"HTTP/1.1"}.
    @ivar connection: the value of the answer's C{Connection} header, if it has one.
    @ivar last: the connection ends with the answer.
    """

    version: bytes
    connection: bytes | None
    last: bool


@frozen(eq=False)
class Plan:
    """
    What a chunk of bytes means.

    @ivar move: L{None} for a look at the cursor in memory.
    @ivar tally: where it is counted.
    @ivar any_way: whether it is answered on every connection, whatever its C{Host}.
    @ivar forwarded: whom the request came from, as its sender says.
    """

    move: Move | None
    variant: Variant
    tally: Tally
    any_way: bool = True
    forwarded: tuple[bytes, ...] = ()


class Memo:
    """
    Plans by the chunk that they were found in, bounded; the oldest go first.

    @ivar plans: for looking up, and nothing else.
    """

    def __init__(self) -> None:
        self.plans: dict[bytes, Plan] = {}
        self._retired = False

    def learn(self, chunk: bytes, plan: Plan) -> None:
        """
        C{chunk} was found to mean C{plan}.
        """
        if self._retired or len(chunk) > LARGEST_CHUNK:
            return
        if len(self.plans) >= MOST_PLANS:
            del self.plans[next(iter(self.plans))]
        self.plans[chunk] = plan

    def retire(self) -> None:
        """
        Forget all, for good.
        """
        self._retired = True
        self.plans.clear()
