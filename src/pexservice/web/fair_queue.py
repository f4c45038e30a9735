"""
A queue for long work in which clients take turns.

A page of the history takes milliseconds to make.  If a thousand clients request a page at
the same moment, the queue makes one page, and then pauses.  During the pause the worker
responds to other requests.  Without pauses, each iteration of the event loop would make a
page.  A new client waits for several iterations until its first response.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")

#: The reactor's C{callLater}.
CallLater = Callable[[float, Callable[[], None]], object]

#: The pause after a piece of work is this many times as long as it blocked the reactor.
PAUSE_FACTOR = 2


class FairQueue:
    """
    A queue in which clients take turns.

    If a client has hundreds of requests, another client waits for only one of them.
    """

    def __init__(
        self, call_later: CallLater, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._call_later = call_later
        self._seconds = seconds
        # True during a piece of work and the pause after it.
        self._busy = False
        # The waiting pieces of work by client; the client whose turn is next comes first.
        self._waiting: OrderedDict[str, OrderedDict[Deferred[None], None]] = OrderedDict()

    def run(self, work: Callable[[], T | Deferred[T]], client: str) -> Deferred[T]:
        """
        Do C{work} when it is the client's turn, or at once if the queue is not busy.

        @return: a Deferred that fires with the result of C{work}.  While C{work} waits, the
            Deferred can be cancelled.
        """
        turn: Deferred[None] = Deferred(lambda turn: self._forget(client, turn))
        if self._busy:
            self._waiting.setdefault(client, OrderedDict())[turn] = None
        else:
            self._busy = True
            turn.callback(None)
        return turn.addCallback(lambda _: self._do(work))

    def _forget(self, client: str, turn: Deferred[None]) -> None:
        turns = self._waiting[client]
        del turns[turn]
        if not turns:
            del self._waiting[client]

    def _do(self, work: Callable[[], T | Deferred[T]]) -> T | Deferred[T]:
        start = self._seconds()
        try:
            return work()
        finally:
            self._call_later(PAUSE_FACTOR * (self._seconds() - start), self._next)

    def _next(self) -> None:
        if not self._waiting:
            self._busy = False
            return
        client, turns = self._waiting.popitem(last=False)
        turn, _ = turns.popitem(last=False)
        if turns:
            # The next turn of this client comes after those of all other clients.
            self._waiting[client] = turns
        turn.callback(None)
