"""
The client that sent a request, and the rate limit of each client.

A client is an IPv4 address, or an IPv6 network of 64 bits.  It is the peer of the
connection, unless the peer is a trusted proxy: then C{X-Forwarded-For} names it.  Anybody
can write that header, so it is ignored from other peers.  Trusted proxies are the addresses
that the operator names in C{--trusted-proxy}, and the peers of a Unix socket, which only
the machine's own proxy can open.

On a dual-stack listener an IPv4 peer has the address C{::ffff:192.0.2.1}.  This module
turns it into C{192.0.2.1}, so no other module has to know.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address as IPv6
from ipaddress import ip_address

from attrs import define

#: If L{RateLimit} knows more clients, it forgets those with the oldest requests.  They take
#: about 10 MiB.
MAX_ADDRESSES = 65536

#: An element of X-Forwarded-For: some proxies add the port.
_FORWARDED_ELEMENT = re.compile(
    r"\[(?P<inner>[0-9a-f:.]{2,45})\](?::[0-9]{1,5})?"
    r"|(?P<v4>[0-9.]{7,15}):[0-9]{1,5}"
    r"|(?P<plain>[0-9a-f:.]{2,45})",
    re.IGNORECASE,
)


_BYTE = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

#: The form of nearly all elements: an IPv4 address.
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
    Return the client at the IP address C{address}: the address itself, or its IPv6 network.

    One client usually has all addresses of an IPv6 network of 64 bits.  C{""} stays C{""}.
    """
    return _network_of_64_bits(address) if ":" in address else address


@lru_cache(maxsize=1024)
def _network_of_64_bits(address: str) -> str:
    return str(IPv6(int(IPv6(address.partition("%")[0])) >> 64 << 64))


class Clients:
    """
    The trusted proxies, and the clients behind them.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        """
        @param proxies: addresses of trusted proxies.
        """
        self._proxies = frozenset(map(normalized, proxies))

    def peer(self, address: str | None, local_address: str) -> Peer:
        """
        Return the peer of a connection.

        @param address: the peer's IP address, as C{accept} returned it.  C{None} for a Unix
            socket, whose peer is a proxy on this machine; C{""} for an unknown address,
            which is never trusted.
        @param local_address: the IP address of this end.
        """
        if address is None:
            return Peer("", trusted=True, checks_host=False)
        if ":" in address:
            address = normalized(address)
        trusted = address in self._proxies
        return Peer(address, trusted, is_loopback(local_address) and not trusted)

    def client_address(self, peer: Peer, forwarded: Sequence[bytes] | None) -> str:
        """
        Return the IP address of the client that sent a request, or C{""} if it has none.

        Each proxy appends the address that it received the request from.  So the list is
        read from the end, and the first address that is not a trusted proxy is the client.
        Everything before it may be forged.  An element that is not an IP address ends the
        search, and the address found so far is returned.

        @param forwarded: the values of C{X-Forwarded-For}, if there are any.
        """
        address = peer.address
        if forwarded is None or not peer.trusted:
            return address
        for element in reversed(b",".join(forwarded).split(b",")):
            # Most elements are plain IPv4 addresses, which need no cache: few come twice.
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

    def client_of(self, address: str | None) -> str | None:
        """
        Return the client at an IP address: the address itself, or its IPv6 network.

        @param address: C{None} for the peer of a Unix socket.
        @return: C{None} for a proxy, which represents many clients.
        """
        if not address or address in self._proxies:
            return None
        if ":" not in address:
            return address
        address = normalized(address.partition("%")[0])
        return None if address in self._proxies else network(address)


@define(eq=False)
class Peer:
    """
    The peer of a connection, as far as responses depend on it.

    @ivar address: the peer's IP address; C{""} if it has none, as on a Unix socket.
    @ivar trusted: whether the peer is a trusted proxy.
    @ivar checks_host: whether the C{Host} of its requests is checked.  This protects
        against DNS rebinding.  It applies to loopback connections, except from a trusted
        proxy: a proxy checks the host name itself.
    """

    address: str
    trusted: bool
    checks_host: bool


class RateLimit:
    """
    The rate limit of one worker: how many requests a second each client may send.

    This is the generic cell rate algorithm.  A client's full allowance is the requests of
    one second.  One time is stored for each client: when its allowance will be full again.
    A client without such a time, or with a past one, has its full allowance.  So past times
    can be forgotten, and memory is bounded by the clients of the last second; in a flood of
    addresses, it is bounded by L{MAX_ADDRESSES}.

    @ivar rate: requests a second.
    """

    def __init__(self, rate: int, seconds: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._cost = 1 / rate
        # The last term allows for the rounding of sums.
        self._burst = 1 - self._cost + 1e-9
        self._seconds = seconds
        # The client whose latest request is oldest is first.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, address: str) -> bool:
        """
        Return whether the client at an IP address may have another request.

        A refused request costs the client nothing.

        @param address: C{""} for a client without an address.
        """
        client = network(address)
        now, full_at = self._seconds(), self._full_at
        # pop() and the assignment below move the client to the end of the order.
        time = max(full_at.pop(client, now), now)
        allowed = time - now <= self._burst
        full_at[client] = time + self._cost if allowed else time
        if len(full_at) > MAX_ADDRESSES:
            self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        past = [client for client, time in self._full_at.items() if time <= now]
        for client in past or list(self._full_at)[: MAX_ADDRESSES // 4]:
            del self._full_at[client]
