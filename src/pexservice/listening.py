"""
Listening where the command line says, and what to say when that fails.
"""

from __future__ import annotations

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory

from pexservice.leaving import CannotStart


async def listen(
    reactor: object, description: str, factory: IProtocolFactory
) -> IListeningPort:
    """
    Listen at the endpoint that C{description} describes.

    @raise CannotStart: it names the endpoint and the reason.
    """
    try:
        endpoint = endpoints.serverFromString(reactor, description)
        port: IListeningPort = await endpoint.listen(factory)
    except CannotListenError as error:
        reason = getattr(error.socketError, "strerror", None) or error.socketError
        raise CannotStart(f"cannot listen on {description}: {reason}") from error
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot listen on {description}: {error}") from error
    return port


async def stop_listening(port: IListeningPort) -> None:
    """
    Listen no more.
    """
    stopped = port.stopListening()
    if stopped is not None:
        await stopped


def shown(address: IAddress) -> str:
    """
    C{address} as people write it.
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
