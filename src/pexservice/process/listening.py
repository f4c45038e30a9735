"""
Listening on the endpoints of the command line, and the errors when that fails.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from pexservice.process.exit_status import CannotStart, Misconfigured
from pexservice.process.fd_endpoint import InheritedEndpoint, is_listening

#: The description of all sockets that systemd passes.
ALL_OF_SYSTEMD = "systemd:all"

#: The file descriptor of the first socket that systemd passes; see sd_listen_fds(3).
_FIRST = 3


class AddressInUse(CannotStart):
    """
    Another process listens on the address.
    """

    __module__ = "pexservice"


_USE_ANOTHER = "; stop the program that uses it, or choose another one with --listen"

#: The exception for each error number.  Another start does not mend a port that takes
#: rights which the service lacks.
_KINDS: Mapping[int | None, type[CannotStart]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.EACCES: Misconfigured,
}


def _lock_holder(path: str | bytes) -> str:
    """
    Say who has Twisted's lock for the Unix socket C{path}.
    """
    lock = f"{os.fsdecode(path)}.lock"
    try:
        holder = f"process {os.readlink(lock)} has"  # noqa: PTH115 the text is no path
    except OSError:
        holder = "another process has"
    return (
        f"{holder} the lock {lock}; stop it, or remove the lock if that process is another"
        " program"
    )


@frozen
class Place:
    """
    An endpoint that does not listen yet.

    Resolving a description takes a few milliseconds, which a worker has before it takes
    over and not then.
    """

    description: str
    endpoint: IStreamServerEndpoint

    async def listen(self, factory: IProtocolFactory) -> IListeningPort:
        """
        Listen on the endpoint.

        @raise CannotStart: listening failed; the message names the endpoint and the
            reason.
        """
        try:
            port: IListeningPort = await self.endpoint.listen(factory)
        except CannotListenError as error:
            problem = error.socketError
            if not isinstance(problem, OSError):
                raise AddressInUse(
                    f"cannot listen on {self.description}: {_lock_holder(error.port)}"
                ) from error
            kind = _KINDS.get(problem.errno, CannotStart)
            advice = _USE_ANOTHER if kind is AddressInUse else ""
            raise kind(
                f"cannot listen on {self.description}: {problem.strerror}{advice}"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotStart(f"cannot listen on {self.description}: {reason}") from error
        return port

    def lost_file(self) -> str | None:
        """
        Return the path of an inherited Unix socket if its file is gone, or C{None}.
        """
        inherited = isinstance(self.endpoint, InheritedEndpoint)
        return self.endpoint.lost_file() if inherited else None  # type: ignore[attr-defined]

    def listen_now(self, factory: IProtocolFactory) -> IListeningPort:
        """
        Listen on the endpoint, which waits for nothing, before the reactor runs.

        @raise CannotStart: as L{listen}.
        """
        results: list[IListeningPort | Failure] = []
        Deferred.fromCoroutine(self.listen(factory)).addBoth(results.append)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        return result


def places(reactor: object, descriptions: Sequence[str]) -> list[Place]:
    """
    Return the places that C{descriptions} name.

    The command line was checked, so each description is valid.

    @raise CannotStart: an inherited socket cannot be used.
    """
    found = []
    for description in descriptions:
        if description == ALL_OF_SYSTEMD:
            numbers = [*passed_by_systemd(_first_environment())]
        elif description.startswith("fd:"):
            numbers = [int(description.removeprefix("fd:"))]
        else:
            endpoint = endpoints.serverFromString(reactor, description)
            found.append(Place(description, endpoint))
            continue
        for number in numbers:
            try:
                found.append(Place(description, InheritedEndpoint(reactor, number)))
            except OSError as error:
                raise CannotStart(
                    f"cannot listen on {description}: {error.strerror}"
                ) from error
    return found


def addresses_in_use(reactor: object, descriptions: Sequence[str]) -> list[str]:
    """
    Listen on each TCP address for a moment.

    @return: the addresses that another process, or this one, listens on.
    @raise CannotStart: an address cannot be used.
    """
    # Only systemd's children have systemd's sockets, and a Unix socket would make a file.
    own = [each for each in descriptions if each.startswith(("tcp:", "tcp6:"))]
    in_use = []
    for description in own:
        try:
            require_addresses(reactor, [description])
        except AddressInUse:
            in_use.append(description)
    return in_use


def require_addresses(reactor: object, descriptions: Sequence[str]) -> None:
    """
    Listen on each TCP address for a moment.

    @raise CannotStart: an address cannot be used; L{AddressInUse} if it is in use.
    """
    own = [each for each in descriptions if each.startswith(("tcp:", "tcp6:"))]
    for place in places(reactor, own):
        port: Any = place.listen_now(Factory())
        # At once, where stopListening() would wait for a reactor that may not run.
        port.stopReading()
        port.socket.close()


def _first_environment() -> dict[str, str]:
    """
    Return the environment that this process began with.

    Twisted, when it is imported, removes systemd's variables.
    """
    found = Path("/proc/self/environ").read_bytes().decode(errors="replace")
    return dict(each.split("=", 1) for each in found.split("\0") if "=" in each)


def passed_by_systemd(environment: Mapping[str, str]) -> Iterator[int]:
    """
    Yield the descriptors of all sockets that systemd has passed to this process.

    @raise Misconfigured: there is no such socket, or one is no listening stream socket.
    """
    count = environment.get("LISTEN_FDS", "")
    ours = environment.get("LISTEN_PID") == str(os.getpid())
    if not (ours and count.isdecimal() and int(count)):
        raise Misconfigured(
            f"--listen {ALL_OF_SYSTEMD}: systemd has passed no socket; start this by a"
            " service that has a socket unit"
        )
    for number in range(_FIRST, _FIRST + int(count)):
        with socket.socket(fileno=os.dup(number)) as passed:
            listens = is_listening(passed)
        if not listens:
            raise Misconfigured(
                f"--listen {ALL_OF_SYSTEMD}: socket {number - _FIRST + 1} of {count} is"
                " no listening stream socket; a socket unit may have ListenStream= only"
            )
        yield number


async def stop_listening(port: IListeningPort) -> None:
    """
    Stop listening on C{port}.
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
            # The name of an abstract socket begins with a null, which is written as @.
            return name.replace(b"\0", b"@", 1).decode("utf-8", "backslashreplace")
        case _:
            return str(address)
