"""
The interfaces between the parts of a worker's server, and the phases of a connection.

They break what would be circles: a connection makes channels, which change its phase; the
site makes connections, which need the site.
"""

from __future__ import annotations

from enum import Enum, auto

from twisted.web.resource import Resource
from zope.interface import Interface

from pexservice.web.operations import ISender
from pexservice.web.problems import Problem


class Phase(Enum):
    """
    Where a connection is between its first request and its end.
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


class IConnection(Interface):
    """
    A connection, to the table of connections and to the channel that parses for it.

    All times are seconds on the monotonic clock of the table.
    """

    #: What it is doing.
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
        Return a number that changes when the client takes some of what it is sent;
        C{None} if that cannot be told.
        """

    def loseConnection() -> None:
        """
        Close it when everything written was sent.
        """

    def time_out() -> None:
        """
        Answer that the request took too long to arrive, and close.
        """

    def abort() -> None:
        """
        Close it at once, whatever was not sent.
        """


class ISite(Interface):
    """
    The site, to the requests that it answers.
    """

    #: The root of the resource tree.
    resource: Resource
    #: Whether the worker stops, so that each answer is its connection's last.
    closing: bool


class IChannel(Interface):
    """
    What parses the requests of a connection, to one of them.
    """

    site: ISite
    #: The connection, as far as answers depend on it.
    sender: ISender
    #: Whether the connection goes on after the present answer.
    persistent: bool

    def refuse(problem: Problem) -> None:
        """
        Answer C{problem}, and nothing more on this connection.
        """

    def loseConnection() -> None:
        """
        Close the connection when everything written was sent.
        """
