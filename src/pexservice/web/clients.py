"""
The client that sent a request, and the rate limit of each client.

A client is identified by its IPv4 address, or by its IPv6 network of 64 bits.  Usually the
client is the peer of the connection.  If the peer is a trusted proxy, the client's address
is in C{X-Forwarded-For}.  Anybody can write this header, so the service ignores it if the
peer is not a trusted proxy.  The operator names the trusted proxies in C{--trusted-proxy}.
The peers of a Unix socket are trusted proxies too.

On a dual-stack listener, an IPv4 peer has an address such as C{::ffff:192.0.2.1}.  This
module replaces this form by C{192.0.2.1}, and no other module sees it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address as IPv6
from ipaddress import ip_address

from attrs import frozen

#: How many clients L{RateLimit} remembers.  They take about 10 MiB.  If there are more
#: clients, L{RateLimit} forgets those with a full allowance.  If no client has one, it
#: forgets the quarter of the clients that has sent no request for the longest time.
MAX_CLIENTS = 65536

#: An element of X-Forwarded-For is an IP address.  Some proxies append the port.
_FORWARDED_ELEMENT = re.compile(
    r"\[(?P<inner>[0-9a-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<v4>[0-9.]{7,15}):[0-9]{1,5}"
    r"|(?P<plain>[0-9a-f:.]{2,45})",
    re.IGNORECASE,
)

_BYTE = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

#: Nearly all elements are IPv4 addresses without a port.
_IPV4 = re.compile(rb"%b(?:\.%b){3}" % (_BYTE, _BYTE))


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


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """
    Return whether only this machine can reach the IP address C{address}.
    """
    try:
        return ip_address(normalized(address)).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _forwarded_address(element: bytes) -> str | None:
    match = _FORWARDED_ELEMENT.fullmatch(element.strip(b" \t").decode("latin-1"))
    try:
        return None if match is None else normalized(match[match.lastgroup or 0])
    except ValueError:
        return None


def network(address: str) -> str:
    """
    Return the network of 64 bits of an IPv6 address, and any other C{address} unchanged.

    A client usually has all addresses of such a network.
    """
    return _network_of_64_bits(address) if ":" in address else address


@lru_cache(maxsize=1024)
def _network_of_64_bits(address: str) -> str:
    return str(IPv6(int(IPv6(address.partition("%")[0])) >> 64 << 64))


class Clients:
    """
    The trusted proxies, and the clients behind them.

    @ivar peer: the method L{_make_peer} with a cache, so that the connections of a client
        share one L{Peer}.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._proxies = frozenset(map(normalized, trusted_proxies))
        self.peer = lru_cache(maxsize=1024)(self._make_peer)

    def _make_peer(self, address: str | None, local_address: str) -> Peer:
        """
        Return the peer of a connection.

        @param address: the peer's IP address, as C{accept} returned it.  C{None} for the
            peer of a Unix socket, which is trusted.  C{""} for an unknown address, which is
            never trusted.
        @param local_address: the IP address of this end.
        """
        if address is None:
            return Peer("", trusted=True, is_local=False)
        if ":" in address:
            address = normalized(address)
        trusted = address in self._proxies
        return Peer(address, trusted, is_loopback(local_address) and not trusted)

    def client_address(self, peer: Peer, forwarded: Sequence[bytes] | None) -> str:
        """
        Return the IP address of the client that sent a request, or C{""} if it has none.

        C{X-Forwarded-For} is a list.  Each proxy appends the address that it received the
        request from.  So the list is searched from its end, and the first address that is
        not a trusted proxy is the client.  Everything before this address may be forged.

        If an element is not an IP address, the search ends.  Then the address after this
        element is returned, or the peer's address if it is the last element.

        @param forwarded: the values of C{X-Forwarded-For}, if there are any.
        """
        address = peer.address
        if forwarded is None or not peer.trusted:
            return address
        for element in reversed(b",".join(forwarded).split(b",")):
            # An IPv4 address is found without the cache of _forwarded_address, because few
            # of these addresses come twice.
            if _IPV4.fullmatch(element):
                forwarded_address: str | None = element.decode()
            else:
                forwarded_address = _forwarded_address(element)
            if forwarded_address is None:
                break
            address = forwarded_address
            if address not in self._proxies:
                break
        return address

    def client_of(self, peer: Peer, forwarded: Sequence[bytes] | None = None) -> str:
        """
        Return the client that sent a request or opened a connection.

        @param forwarded: the values of C{X-Forwarded-For}, if there are any.
        @return: the client's IPv4 address or IPv6 network; C{""} for a proxy that does not
            name its client.
        """
        address = self.client_address(peer, forwarded)
        return "" if address in self._proxies else network(address)


@frozen(eq=False)
class Peer:
    """
    Those facts about a connection's peer that influence a response.

    @ivar address: the peer's IP address; C{""} if the peer has none, as on a Unix socket.
    @ivar trusted: whether the peer is a trusted proxy.
    @ivar is_local: whether the connection is over loopback, and the peer is not a trusted
        proxy.  Then a web browser on this machine may have sent the requests, so their
        C{Host} is checked; see L{pexservice.web.access}.
    """

    address: str
    trusted: bool
    is_local: bool


class RateLimit:
    """
    The rate limit of one worker: how many requests a second each client may send.

    This is the generic cell rate algorithm.  The full allowance of a client is C{rate}
    requests.  For each client, the limit stores the time at which the allowance of this
    client will be full again.  A client without a stored time has its full allowance, so
    the limit may forget a time that is past.
    """

    def __init__(self, rate: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._cost = 1 / rate
        # A request is allowed if the allowance will be full again within this time.  The
        # last number is a tolerance for rounding errors.
        self._burst = 1 - self._cost + 1e-9
        self._seconds = seconds
        # The client that has sent no request for the longest time comes first.
        self._full_at: dict[str, float] = {}

    def take(self, address: str) -> bool:
        """
        Count a request of a client, and return whether it is within the limit.

        A request above the limit does not reduce the client's allowance.

        @param address: the client's IP address; C{""} if the client has none.
        """
        client = network(address)
        now, full_at = self._seconds(), self._full_at
        # pop() and the assignment below move the client to the end of the order.
        full_time = max(full_at.pop(client, now), now)
        allowed = full_time - now <= self._burst
        full_at[client] = full_time + self._cost if allowed else full_time
        if len(full_at) > MAX_CLIENTS:
            self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        full_at = self._full_at
        full_clients = [client for client, time in full_at.items() if time <= now]
        for client in full_clients or list(full_at)[: MAX_CLIENTS // 4]:
            del full_at[client]
