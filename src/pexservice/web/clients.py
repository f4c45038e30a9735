"""
Who sent a request: the other end of the connection, unless that is a proxy.

C{X-Forwarded-For} can be written by anybody, so it counts only from those who are
known to be proxies: who comes through a Unix socket, which only the machine's own
proxy can open, and the addresses that the operator names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress


class Clients:
    """
    The rules of one worker.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        """
        @param proxies: addresses of proxies that are believed.
        """
        self._proxies = frozenset(str(ip_address(proxy)) for proxy in proxies)

    def address(self, peer: IAddress, forwarded: Sequence[bytes]) -> IAddress:
        """
        @param forwarded: the values of C{X-Forwarded-For}.  Each proxy adds at the
            end whom it heard from, so the last that is not itself a known proxy is
            the client; what stands before was written by whomever.
        """
        if not forwarded or not self._believes(peer):
            return peer
        found = peer
        for value in reversed(b",".join(forwarded).split(b",")):
            try:
                host = str(ip_address(value.strip().decode("ascii")))
            except ValueError:
                break
            kind = IPv6Address if ":" in host else IPv4Address
            found = kind("TCP", host, 0)
            if host not in self._proxies:
                break
        return found

    def _believes(self, peer: IAddress) -> bool:
        return isinstance(peer, UNIXAddress) or getattr(peer, "host", "") in self._proxies
