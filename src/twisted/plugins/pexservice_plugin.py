"""
The plugins of the service that C{twistd} finds.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IReactorCore,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

pexservice = ServiceMaker(
    "pexservice",
    "pexservice.cli.twistd.service",
    "A durable cursor over the Fibonacci sequence, over HTTP.",
    "pexservice",
)

pexservice_worker = ServiceMaker(
    "pexservice worker",
    "pexservice.cli.twistd.worker",
    "One pexservice worker, for another supervisor than ours.",
    "pexservice-worker",
)

pexservice_uvloop = Reactor(
    "uvloop",
    "pexservice.server.transport.reactor",
    "Twisted's asyncio reactor on uvloop's event loop.",
)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class FdParser:
    """
    The parser of C{fd:N}, a listening socket that was handed down.
    """

    prefix = "fd"

    def parseStreamServer(
        self, reactor: IReactorCore, *args: object, **kwargs: object
    ) -> IStreamServerEndpoint:
        """
        Return the endpoint that C{fd:N} describes.

        See C{IStreamServerEndpointStringParser}.
        """
        from pexservice.process.fd_endpoint import InheritedEndpoint  # noqa: PLC0415 as lazy as the rest

        return InheritedEndpoint.parse(reactor, *args, **kwargs)


pexservice_fd = FdParser()
