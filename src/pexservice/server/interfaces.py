"""
The interfaces between the parts of a worker's server, and the phases of a connection.

They prevent circular imports: a connection makes channels, which change its phase.
"""

from __future__ import annotations

from enum import Enum, auto

from pexservice.web.operations import ISender


class Phase(Enum):
    """
    The phase of a connection, from its first request to its end.
    """

    #: Between requests, and so free to be closed to make room for others.
    IDLE = auto()
    #: A request has begun to arrive and is not complete.
    RECEIVING = auto()
    #: A request is being answered; others may wait behind it.
    ANSWERING = auto()
    #: The last answer was given; nothing that arrives is read as a request any more.
    DRAINING = auto()
    #: There is no connection any more.
    CLOSED = auto()


class IConnection(ISender):
    """
    A connection, as the table of connections and the channel that parses for it see it.

    All times are seconds on the monotonic clock of the table.
    """

    #: The phase that it is in.
    phase: Phase
    #: Whether a request was answered on it.
    answered: bool
    #: When it was last between requests.
    last_active: float
    #: When the request that is arriving began, 0 for none.
    receiving_since: float
    #: When the client stopped taking answers, 0 while it takes them.
    blocked_since: float

    def bytes_taken() -> int | None:
        """
        Return a number that changes when the client takes some of the bytes sent to it.

        Return C{None} if such a number cannot be told.
        """

    def loseConnection() -> None:
        """
        Close the connection when everything written was sent.
        """

    def time_out() -> None:
        """
        Answer that the request took too long to arrive, and close.
        """

    def abort() -> None:
        """
        Close the connection at once, whatever was not sent.
        """
