"""
The body of an answer, read whole, up to a largest size.
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
    A body that is longer than the largest that is read.
    """


class _Body(Protocol):
    def __init__(self, finished: Deferred[bytes]) -> None:
        self._finished = finished
        self._room = MOST
        self._chunks: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        """
        Keep a part of the body, or end the body with L{BodyTooLong}.
        """
        self._room -= len(data)
        if self._room < 0:
            self._end(Failure(BodyTooLong()))
            abort(self)
            return
        self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Deliver the whole body, or the reason why the connection ended before its end.
        """
        # PotentialDataLoss is the end of an answer without a length, which looks the same
        # as a cut; only the contents tell whether the body is whole.
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
        # Twisted's client lets a body do no more than this to its connection.
        transport.loseConnection()


def read_body(response: IResponse) -> Deferred[bytes]:
    """
    Read the body of C{response}; cancelling the Deferred closes the connection.
    """
    finished: Deferred[bytes] = Deferred(lambda _: abort(body))
    body = _Body(finished)
    response.deliverBody(body)
    return finished
