"""
The body of an answer, read whole and no further than it may go.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

#: The largest body that is read.  Bytes: three values of 80 million digits.
MOST = 256 << 20


class BodyTooLong(Exception):
    """
    A body has no end in sight.
    """


class _Body(Protocol):
    def __init__(self, finished: Deferred[bytes], most: int) -> None:
        self._finished = finished
        self._room = most
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        """
        Keep a part of the body.
        """
        self._room -= len(data)
        if self._room < 0:
            self._end(Failure(BodyTooLong()))
            abort(self)
            return
        self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The body has ended, or the connection.
        """
        # The latter is an answer without a length, whose end nobody can tell from a cut;
        # what is in it tells.
        if reason.check(ResponseDone, PotentialDataLoss):
            self._end(b"".join(self._chunks))
        else:
            self._end(reason)

    def _end(self, result: bytes | Failure) -> None:
        if not self._finished.called:
            self._finished.callback(cast(Any, result))


def abort(protocol: Protocol) -> None:
    """
    Close the connection that a body comes on, if it is open.
    """
    transport = protocol.transport
    if transport is not None:
        # All that Twisted's client lets a body do to it.
        transport.loseConnection()


def read_body(response: IResponse, most: int = MOST) -> Deferred[bytes]:
    """
    Read the body of C{response}; to cancel this closes the connection.
    """
    finished: Deferred[bytes] = Deferred(lambda _: abort(body))
    body = _Body(finished, most)
    response.deliverBody(body)
    return finished
