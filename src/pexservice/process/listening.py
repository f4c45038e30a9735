"""
Listening sockets: opened by this process, or inherited from systemd or from a supervisor.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import evolve, frozen
from twisted.internet import endpoints, fdesc
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from pexservice.process.exit_status import CannotStart, Misconfigured

#: The value of C{--listen} for all sockets that systemd passes.
ALL_OF_SYSTEMD = "systemd:all"

#: How many connections may wait to be accepted, for example during a takeover.  The
#: kernel's limit, net.core.somaxconn, is 4096 by default.
BACKLOG = 4096

#: File descriptors that connections never get: up to 64 for the store, logs, sockets and
#: files that are open for a moment, 16 for connections that are being closed, and 32 for
#: connections that are refused with a response.
RESERVED_DESCRIPTORS = 112

#: With a lower limit of open files, Twisted, uvloop or the store may have no descriptor.
MIN_OPEN_FILES = 64

#: The file descriptor of the first socket that systemd passes; see sd_listen_fds(3).
_FIRST_OF_SYSTEMD = 3


class AddressInUse(CannotStart):
    """
    Another process listens on the address.
    """

    __module__ = "pexservice"


_USE_ANOTHER = "; stop the program that uses it, or choose another one with --listen"

#: A mapping from an error number to an exception.  EACCES means that the service may not
#: use the address, so another start would fail in the same way.
_EXCEPTION_BY_ERRNO: Mapping[int | None, type[CannotStart]] = {
    errno.EADDRINUSE: AddressInUse,
    errno.EACCES: Misconfigured,
}


def _lock_holder(path: str | bytes) -> str:
    """
    Return in words which process has Twisted's lock for the Unix socket C{path}.
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


@implementer(IListeningPort, IStreamServerEndpoint)
class InheritedSocket:
    """
    A listening socket that another process opened: C{fd:N}.

    This is both the endpoint and its port.  A port of Twisted would set the permissions of
    a Unix socket's file and remove the file, but other processes use the same socket.
    """

    def __init__(self, descriptor: int) -> None:
        """
        Adopt the socket.  Children of this process do not inherit the descriptor.

        @param descriptor: the file descriptor of a listening stream socket.
        @raise OSError: there is no such descriptor, or it is no listening stream socket.
        """
        self._socket = socket.socket(fileno=descriptor)
        fdesc.setNonBlocking(descriptor)
        os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
        if self._socket.type != socket.SOCK_STREAM or not self._socket.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise OSError(
                0,
                f"file descriptor {descriptor} is no listening stream socket; a socket"
                " unit may have ListenStream= only",
            )

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return succeed(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def getHost(self) -> IAddress:
        name = self._socket.getsockname()
        match self._socket.family:
            case socket.AF_UNIX:
                return UNIXAddress(name)
            case socket.AF_INET6:
                return IPv6Address("TCP", *name)
        return IPv4Address("TCP", *name)

    def startListening(self) -> None:
        """
        Do nothing: the socket listens already.
        """

    def stopReading(self) -> None:
        """
        Do nothing: the worker's C{Listener} accepts the connections, from a copy.
        """

    def stopListening(self) -> None:
        """
        Do nothing: the socket stays open for this process, which may listen again.
        """


@frozen
class ListenEndpoint:
    """
    An endpoint to listen on, with the value of C{--listen} that names it.

    A worker makes its endpoints before it takes over, because Twisted needs a few
    milliseconds to make an endpoint of a description.
    """

    description: str
    endpoint: IStreamServerEndpoint

    def listen(self, factory: IProtocolFactory) -> IListeningPort:
        """
        Listen on the endpoint at once, even before the reactor runs.

        @raise CannotStart: the process cannot listen there.  The message says why.
        """
        # No endpoint of this service waits for an event, so the Deferred has fired.
        results: list[IListeningPort | Failure] = []
        try:
            self.endpoint.listen(factory).addBoth(results.append)
            (result,) = results
            if isinstance(result, Failure):
                result.raiseException()
        except CannotListenError as error:
            problem = error.socketError
            if not isinstance(problem, OSError):
                raise AddressInUse(
                    f"cannot listen on {self.description}: {_lock_holder(error.port)}"
                ) from error
            kind = _EXCEPTION_BY_ERRNO.get(problem.errno, CannotStart)
            text = problem.strerror or str(problem)
            if kind is AddressInUse:
                text += _USE_ANOTHER
            if isinstance(error.port, bytes):
                path = Path(os.fsdecode(error.port))
                # Twisted keeps the lock of a Unix socket that it could not make.
                Path(f"{path}.lock").unlink(missing_ok=True)
                if path.exists() and not path.is_socket():
                    kind, text = Misconfigured, f"{path} exists, and is no socket"
            raise kind(f"cannot listen on {self.description}: {text}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CannotStart(f"cannot listen on {self.description}: {reason}") from error
        return result


def listen_endpoints(reactor: object, descriptions: Sequence[str]) -> list[ListenEndpoint]:
    """
    Return the endpoints that C{descriptions} name.

    The command line was checked, so each description is valid.

    @raise Misconfigured: an inherited socket cannot be used.
    """
    result = []
    for description in descriptions:
        if description == ALL_OF_SYSTEMD:
            numbers = passed_by_systemd(_first_environment())
        elif description.startswith("fd:"):
            numbers = (int(description.removeprefix("fd:")),)
        else:
            endpoint = endpoints.serverFromString(reactor, description)
            result.append(ListenEndpoint(description, endpoint))
            continue
        for number in numbers:
            try:
                result.append(ListenEndpoint(description, InheritedSocket(number)))
            except OSError as error:
                raise Misconfigured(
                    f"cannot listen on {description}: {error.strerror}"
                ) from error
    return result


def addresses_in_use(reactor: object, descriptions: Sequence[str]) -> list[str]:
    """
    Return the TCP addresses that another process, or this one, listens on.

    @raise CannotStart: an address cannot be used for another reason, for example because
        C{descriptions} has it twice.
    """
    in_use = []
    for description in descriptions:
        try:
            check_addresses(reactor, [description])
        except AddressInUse:
            in_use.append(description)
    check_addresses(reactor, [text for text in descriptions if text not in in_use])
    return in_use


def check_addresses(reactor: object, descriptions: Sequence[str]) -> None:
    """
    Listen on all TCP addresses at once, for a moment.

    @raise CannotStart: an address cannot be used; L{AddressInUse} if it is in use.
    """
    # Other addresses are not checked: only a child of systemd has systemd's sockets, and
    # listening on a Unix socket would make a file.
    own = [text for text in descriptions if text.startswith(("tcp:", "tcp6:"))]
    sockets: list[socket.socket] = []
    try:
        for own_endpoint in listen_endpoints(reactor, own):
            port: Any = own_endpoint.listen(Factory())
            # stopListening() requires a running reactor.
            port.stopReading()
            sockets.append(port.socket)
    finally:
        for listening in sockets:
            listening.close()


def _first_environment() -> dict[str, str]:
    """
    Return the environment that this process began with.

    The import of Twisted removes systemd's variables from C{os.environ}.
    """
    variables = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)


def passed_by_systemd(environment: Mapping[str, str]) -> Sequence[int]:
    """
    Return the descriptors of all sockets that systemd has passed to this process.

    @raise Misconfigured: systemd passed no socket.
    """
    count = environment.get("LISTEN_FDS", "")
    ours = environment.get("LISTEN_PID") == str(os.getpid())
    if not (ours and count.isdecimal() and int(count)):
        raise Misconfigured(
            f"--listen {ALL_OF_SYSTEMD}: systemd has passed no socket; start this by a"
            " service that has a socket unit"
        )
    return range(_FIRST_OF_SYSTEMD, _FIRST_OF_SYSTEMD + int(count))


def socket_file(port: IListeningPort) -> Path | None:
    """
    Return the file of a Unix socket, or C{None} for a TCP or an abstract socket.
    """
    match port.getHost():
        case UNIXAddress(name=bytes() as name) if not name.startswith(b"\0"):
            return Path(os.fsdecode(name))
    return None


def format_address(address: IAddress) -> str:
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


def local_address(address: Any) -> str:
    """
    Return where programs on this machine reach a socket that listens on C{address}.

    @return: C{HOST:PORT}, or the base URL of a Unix socket.
    """
    if isinstance(address, UNIXAddress):
        name = address.name or b""
        if name.startswith(b"\0"):
            return f"http+unix://{quote(name, safe='')}"
        return f"unix:{Path(format_address(address)).absolute()}"
    # A socket on all addresses is also reached by the loopback address.
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 no address to listen on
    return format_address(evolve(address, host=loopback.get(address.host, address.host)))


def check_open_file_limit() -> None:
    """
    Check that this process may open as many files as it needs without any connection.

    @raise Misconfigured: the limit of open files is too low.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        raise Misconfigured(
            f"the limit of open files is {soft}, but {MIN_OPEN_FILES} are required; raise"
            " it with ulimit -n or LimitNOFILE="
        )


def affordable_connections(wanted: int) -> int:
    """
    Raise the limit of open files for C{wanted} connections, as far as the system allows.

    @return: how many connections the limit allows, at most C{wanted}.  If there were more,
        the kernel would accept them, and their clients would get no response.
    @raise Misconfigured: the limit does not even allow the files that are always open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    check_open_file_limit()
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - RESERVED_DESCRIPTORS))
