"""
Listening where the command line says, and what to say when that fails.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from attrs import frozen
from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)

from pexservice.process.exit_status import CannotStart


class AddressInUse(CannotStart):
    """
    Another process listens there.
    """

    __module__ = "pexservice"


@frozen
class Place:
    """
    An endpoint that does not listen yet.

    Finding what a description means takes a few
    milliseconds, which a worker has before it takes over and not then.
    """

    description: str
    endpoint: IStreamServerEndpoint

    async def listen(self, factory: IProtocolFactory) -> IListeningPort:
        """
        Listen.

        @raise CannotStart: it names the endpoint and the reason.
        """
        try:
            port: IListeningPort = await self.endpoint.listen(factory)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            in_use = getattr(error.socketError, "errno", None) == errno.EADDRINUSE
            kind = AddressInUse if in_use else CannotStart
            raise kind(f"cannot listen on {self.description}: {reason}") from error
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot listen on {self.description}: {error}") from error
        return port


def places(reactor: object, descriptions: Sequence[str]) -> list[Place]:
    """
    Return what C{descriptions} mean; the command line was checked, so each means something.
    """
    return [
        Place(description, endpoints.serverFromString(reactor, description))
        for description in descriptions
    ]


async def stop_listening(port: IListeningPort) -> None:
    """
    Listen no more.
    """
    stopped = port.stopListening()
    if stopped is not None:
        await stopped


def shown(address: IAddress) -> str:
    """
    Return C{address} as people write it.
    """
    match address:
        case IPv6Address():
            return f"[{address.host}]:{address.port}"
        case IPv4Address():
            return f"{address.host}:{address.port}"
        case UNIXAddress(name=bytes() as name):
            return name.decode("utf-8", "backslashreplace")
        case _:
            return str(address)
