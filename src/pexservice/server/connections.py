"""
How many connections there are, and which of them go when there are too many.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from pexservice.web.problems import Problem, too_many_connections


class Connection(Protocol):
    """
    What the table needs of a channel.

    @ivar idle: it is between requests.
    @ivar answered: it has had one.
    """

    idle: bool
    answered: bool

    def loseConnection(self) -> None:
        """
        Close it when all was sent.
        """

    def forceAbortClient(self) -> None:
        """
        Close it at once.
        """


class Connections:
    """
    The open connections of one worker, those that rested longest first.

    @ivar closing: no connection outlives the request it is in.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # An ordered set.
        self._open: dict[Connection, None] = {}
        self._emptied: list[Deferred[None]] = []
        self.closing = False
        self._parting = False

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> Problem | None:
        """
        Take a new connection.  When there are too many, the one that rested longest
        makes room.

        @return: why it is not taken.
        """
        if len(self._open) >= self._limit:
            resting = next((each for each in self._open if each.idle), None)
            if resting is None:
                return too_many_connections(self._limit)
            del self._open[resting]
            resting.loseConnection()
        self._open[connection] = None
        return None

    def rested(self, connection: Connection) -> None:
        """
        C{connection} has answered and waits for a request.
        """
        if self._parting:
            connection.loseConnection()
        elif connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def leave(self, connection: Connection) -> None:
        """
        C{connection} is closed.
        """
        self._open.pop(connection, None)
        if not self._open:
            emptied, self._emptied = self._emptied, []
            for each in emptied:
                each.callback(None)

    def abort(self) -> None:
        """
        Close all of them now, whatever they are in.
        """
        for each in list(self._open):
            each.forceAbortClient()

    def close_resting(self) -> None:
        """
        Close those that wait for another request, now or when they come to it.  One
        that has sent none yet is about to, so it may.
        """
        self._parting = True
        for each in list(self._open):
            if each.idle and each.answered:
                each.loseConnection()

    def close_idle(self) -> None:
        """
        Close also those that have not sent any request.
        """
        for each in list(self._open):
            if each.idle:
                each.loseConnection()

    def emptied(self) -> Deferred[None]:
        """
        @return: fires when no connection is open.
        """
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied
