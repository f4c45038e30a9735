"""
The check of C{Host} against DNS rebinding.

A page of attacker.example can have that name resolve to 127.0.0.1 once it is loaded.  To
the browser the service is then of the page's own origin: the page may read answers, and
send whatever it likes.  One thing gives it away, the name in C{Host}.  So where nothing
else protects the service (it is reached by loopback, and takes steps without a token), only
names that cannot belong to anybody else are answered.

L{pexservice.server.parser} sees to it that there is one C{Host}, and that it is well
formed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from twisted.logger import Logger

from pexservice.web.clients import Peer
from pexservice.web.problems import Problem, misdirected

_log = Logger()

#: The value of C{--allowed-host} that switches the check off.
ANY = "*"

#: How many refused names are logged; clients choose them.
MOST_LOGGED = 100

_PORT = re.compile(rb":[0-9]*\Z")


def host_name(host: bytes) -> str:
    """
    Return the name in the value of a C{Host} header, as names are compared.

    The name is in small letters, without the port and the final dot.
    """
    name = _PORT.sub(b"", host).decode("latin-1").lower()
    return name.removesuffix(".")


class HostPolicy:
    """
    The rules on which values of C{Host} are answered.
    """

    def __init__(
        self,
        allowed: Iterable[str] = (),
        *,
        own_name: str,
        needed: bool = True,
    ) -> None:
        """
        Make the rules from the names in C{allowed} and the machine's own name.

        @param allowed: more names to answer to, or L{ANY}.
        @param own_name: the machine's name, as C{gethostname} has it.
        @param needed: C{False} where steps take a token.
        """
        names = {host_name(each.encode()) for each in allowed}
        self._needed = needed and ANY not in names
        self._names = frozenset({"localhost", host_name(own_name.encode()), *names})
        self._logged: set[str] = set()
        #: Whether a value of C{Host} is answered on every connection, also on one whose
        #: peer L{is checked<pexservice.web.clients.Peer>}.  Clients send the same few
        #: again and again.
        self.answers_to = lru_cache(maxsize=256)(self._is_ours)

    def applies_to(self, peer: Peer) -> bool:
        """
        Return whether only names of this machine are answered on C{peer}'s connection.
        """
        return self._needed and peer.checks_host

    def refusal(self, host: bytes | None) -> Problem:
        """
        Return 421, and log the name in C{host} if it is refused for the first time.
        """
        self._log_once(host_name(host or b""))
        return misdirected()

    def _is_ours(self, host: bytes | None) -> bool:
        # A request of HTTP/1.0 may have none, and no browser sends such a one.
        if host is None or not self._needed:
            return True
        name = host_name(host)
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    def _log_once(self, name: str) -> None:
        logged = self._logged
        if name in logged or len(logged) >= MOST_LOGGED:
            return
        logged.add(name)
        _log.warn(
            "refused a request for the host {name}, over loopback and without a token:"
            " --allowed-host {name} allows it, and --trusted-proxy where it came from a"
            " proxy",
            name=name,
        )
        if len(logged) == MOST_LOGGED:
            _log.warn("refused hosts are no longer logged: there were {n}", n=MOST_LOGGED)


def _is_address(name: str) -> bool:
    """
    Return whether C{name} is an IP address, which no name server turns into another one.
    """
    try:
        if name.startswith("["):
            IPv6Address(name[1:].removesuffix("]"))
        else:
            return ip_address(name).version == 4  # noqa: PLR2004 the other has brackets
    except ValueError:
        return False
    return name.endswith("]")
