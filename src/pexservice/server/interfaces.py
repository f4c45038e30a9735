"""
The interfaces between the parts of a worker's server, and the phases of a connection.

They prevent circular imports: a connection makes channels, which change its phase; the site
makes connections, which need the site.
"""

from __future__ import annotations

from enum import Enum, auto

from twisted.web.resource import Resource
from zope.interface import Interface

from pexservice.web.operations import ISender
from pexservice.web.problems import Problem


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


class IConnection(Interface):
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


class ISite(Interface):
    """
    The site, as the requests that it answers see it.
    """

    #: The root of the resource tree.
    resource: Resource
    #: Whether the worker stops, so that each answer is its connection's last.
    closing: bool


class IChannel(Interface):
    """
    The parser of a connection's requests, as each of them sees it.
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
