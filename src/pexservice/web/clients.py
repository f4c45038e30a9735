"""
The address of the client that sent a request.

The client is at the other end of the connection, unless a proxy is there.

C{X-Forwarded-For} can be written by anybody, so it counts only from known proxies: peers of
a Unix socket, which only the machine's own proxy can open, and the addresses that the
operator names.

A dual-stack listener has an IPv4 client as C{::ffff:192.0.2.1}.  Here it becomes
C{192.0.2.1}, and no other module has to know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address as IPv6
from ipaddress import ip_address

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

#: An element of X-Forwarded-For: some proxies add the port.
_ELEMENT = re.compile(
    r"\[(?P<inner>[0-9a-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<v4>[0-9.]{7,15}):[0-9]{1,5}"
    r"|(?P<plain>[0-9a-f:.]{2,45})",
    re.IGNORECASE,
)


_BYTE = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

#: The form of nearly all elements: an IPv4 address in its one form.
_USUAL = re.compile(rb"%b(?:\.%b){3}" % (_BYTE, _BYTE))


@lru_cache(maxsize=1024)
def normalized(text: str) -> str:
    """
    Return an IP address in its shortest form.

    An IPv4 address that is mapped into IPv6 becomes plain IPv4.

    @raise ValueError: C{text} is no IP address.
    """
    address = ip_address(text)
    if isinstance(address, IPv6) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def host_of(address: IAddress) -> str:
    """
    Return the IP address of one end of a connection, or an empty string if it has none.
    """
    if isinstance(address, IPv4Address):
        return address.host
    return normalized(address.host) if isinstance(address, IPv6Address) else ""


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    return bool(host) and ip_address(host).is_loopback


def is_loopback(address: IAddress) -> bool:
    """
    Return whether only this machine can reach C{address}; C{False} for a Unix socket.
    """
    return _is_loopback(host_of(address))


@lru_cache(maxsize=1024)
def _forwarded_host(element: bytes) -> str | None:
    found = _ELEMENT.fullmatch(element.strip(b" \t").decode("latin-1"))
    try:
        return None if found is None else normalized(found[found.lastgroup or 0])
    except ValueError:
        return None


def network(host: str) -> str:
    """
    Return the name under which C{host} counts as one client.

    That is an IPv4 address; an IPv6 network of 64 bits, of which a client has all
    addresses; or C{""} for all that come through a Unix socket.
    """
    return _network_of_64_bits(host) if ":" in host else host


@lru_cache(maxsize=1024)
def _network_of_64_bits(host: str) -> str:
    return str(IPv6(int(IPv6(host.partition("%")[0])) >> 64 << 64))


class Clients:
    """
    The known proxies, by which clients are told from proxies.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        """
        @param proxies: addresses of proxies that are believed.
        """
        self._proxies = frozenset(map(normalized, proxies))

    def caller(self, peer: IAddress, local: IAddress) -> Caller:
        """
        Return the caller of a connection between C{peer} and C{local}.
        """
        trusted = self.trusts(peer)
        return Caller(host_of(peer), trusted, is_loopback(local) and not trusted)

    def host(self, caller: Caller, forwarded: Sequence[bytes] | None) -> str:
        """
        Return the address of the client that sent a request, or C{""} if there is none.

        @param forwarded: the values of C{X-Forwarded-For}, if there are any.  Each proxy
            adds at the end the address that it heard from, so the last address that is not
            itself a known proxy is the client; anybody may have written what stands before.
        """
        found = caller.host
        if forwarded is None or not caller.trusted:
            return found
        for element in reversed(b",".join(forwarded).split(b",")):
            # Most elements are written as they are compared, and few are seen twice.
            if _USUAL.fullmatch(element):
                host: str | None = element.decode()
            else:
                host = _forwarded_host(element)
            if host is None:
                break
            found = host
            if host not in self._proxies:
                break
        return found

    def trusts(self, peer: IAddress) -> bool:
        """
        Return whether C{peer} is a known proxy.
        """
        return isinstance(peer, UNIXAddress) or host_of(peer) in self._proxies

    def holder(self, host: str | None) -> str | None:
        """
        Return the name under which the connections of one client are counted.

        @param host: the address of the client's end; C{None} for a Unix socket.
        @return: the address, or an IPv6 network; C{None} for a proxy, which stands for many
            clients.
        """
        if not host or host in self._proxies:
            return None
        if ":" not in host:
            return host
        known = normalized(host.partition("%")[0])
        return None if known in self._proxies else network(known)

    def client_name(self, caller: Caller, forwarded: Sequence[bytes] | None) -> str:
        """
        Return the name under which the requests of one client are counted.

        @return: the address, or an IPv6 network; C{""} for the clients of a proxy that
            does not name them.
        """
        return self.holder(self.host(caller, forwarded)) or ""


@define(eq=False)
class Caller:
    """
    The connection that a request came on, as far as answers depend on it.

    @ivar host: the IP address of the other end, if it has one.
    @ivar trusted: whether the other end is a known proxy.
    @ivar checks_host: whether the C{Host} of its requests is checked: they come over
        loopback, and from no proxy, which would check the name itself.
    """

    host: str
    trusted: bool
    checks_host: bool
