"""
The connections to a server, over TCP, TLS or a Unix socket, and their permanent errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pexservice.client.errors import (
    BadAddress,
    CertificateRefused,
    CursorError,
    UnexpectedAnswer,
)
from pexservice.core.base_url import BaseURL
from pexservice.core.failures import causes, describe
from pexservice.core.text import quoted

CONNECT_TIMEOUT_SECONDS = 5.0

#: The delay before Twisted tries the next address of a host name.  Twisted also waits for
#: this long before it reports that the only address refuses connections, so Twisted's
#: default of 0.3 s would delay every attempt.
NEXT_ADDRESS_DELAY_SECONDS = 0.05

#: How long the client keeps an idle connection open.  A service and nginx keep it open for
#: longer, so the client rarely sends a request while the server closes the connection.
IDLE_CONNECTION_SECONDS = 30

#: The limit for the head of a response: its status line, its headers, and the interim
#: responses before it.  Twisted limits only the length of a line.
MAX_HEAD_BYTES = 256 << 10

#: A host name as Twisted accepts it, or an IPv4 address.  Of the names with two hyphens as
#: third and fourth character, only encoded international names are valid.
_LABEL = r"(?!-|(?!xn)..--)[a-z0-9-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?")

_FINAL_STATUS = re.compile(rb"HTTP/\d\.\d [2-9]\d\d\b")

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.ASCII
)

#: OpenSSL's words for an untrusted certificate, and for data that is not TLS.
_UNTRUSTED = "certificate verify failed"
_NO_TLS = ("wrong version number", "packet length too long", "http request")


class BadHead(Exception):
    """
    The head of a response is not HTTP, or is longer than L{MAX_HEAD_BYTES}.
    """


class _BoundedConnection(ProtocolWrapper):
    """
    A connection that limits the head of each response, for Twisted's HTTP client.
    """

    #: The received part of a head; C{None} while a body is received.
    _head: bytes | None = b""
    _head_bytes = 0
    _error: BadHead | None = None

    def writeSequence(self, data: Iterable[bytes]) -> None:
        # A request begins, so the next data is the head of its response.
        self._head, self._head_bytes = b"", 0
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None:
            self._error = self._read_head(self._head + data)
            self._head_bytes += len(data)
        if self._error is None:
            super().dataReceived(data)
        else:
            self.abortConnection()

    def _read_head(self, data: bytes) -> BadHead | None:
        if not b"HTTP/".startswith(data[:5]):
            return BadHead(f"expected HTTP, got {quoted(data)}")
        *complete_heads, self._head = re.split(rb"\n\r?\n", data)
        if any(map(_FINAL_STATUS.match, complete_heads)):
            self._head = None
        elif self._head_bytes > MAX_HEAD_BYTES:
            return BadHead(
                f"expected a shorter response, got more than {MAX_HEAD_BYTES} bytes of"
                " headers"
            )
        return None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason if self._error is None else Failure(self._error))


class BoundingFactory(WrappingFactory):
    """
    A factory that limits the heads on the connections of another factory.
    """

    protocol = _BoundedConnection
    noisy = False


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
@frozen
class ServerEndpoint:
    """
    The endpoint of one server, to which an agent connects for every URL.
    """

    _endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        connecting: Deferred[Any] = self._endpoint.connect(BoundingFactory(factory))
        return connecting.addCallback(lambda connection: connection.wrappedProtocol)


def make_pool(reactor: Any, max_idle_connections: int) -> HTTPConnectionPool:
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = max_idle_connections
    pool.cachedConnectionTimeout = IDLE_CONNECTION_SECONDS
    # RetryingClient repeats failed requests, and must count each attempt.
    pool.retryAutomatically = False
    return pool


def make_endpoint(server: BaseURL, reactor: Any, ca_file: str | None) -> ServerEndpoint:
    """
    Return the endpoint of C{server}.

    @param ca_file: a PEM file of authorities to trust instead of the system's.
    @raise BadAddress: the file or the host name cannot be used, or TLS is not installed.
    """
    if server.socket is not None:
        timeout = CONNECT_TIMEOUT_SECONDS
        return ServerEndpoint(UNIXClientEndpoint(reactor, server.socket, timeout))
    # A colon occurs only in an IPv6 address, which BaseURL has checked.
    if ":" not in server.host and not _HOST_NAME.fullmatch(server.host):
        raise BadAddress(
            f"{server.host!r} is not a host name; use letters, digits, hyphens and dots"
        )
    endpoint = HostnameEndpoint(
        reactor,
        server.host,
        server.port,
        timeout=CONNECT_TIMEOUT_SECONDS,
        attemptDelay=NEXT_ADDRESS_DELAY_SECONDS,
    )
    if not server.is_https:
        return ServerEndpoint(endpoint)
    try:
        from twisted.internet import ssl  # noqa: PLC0415 an extra of Twisted's
    except ImportError as error:
        raise BadAddress(
            f"{server}: https requires pyOpenSSL and service_identity ({error});"
            " pip install 'twisted[tls]'"
        ) from error
    trust = ssl.platformTrust() if ca_file is None else _authorities(ssl, ca_file)
    try:
        options = ssl.optionsForClientTLS(server.host, trust)
    except ValueError as error:
        raise BadAddress(f"{server}: {error}") from error
    return ServerEndpoint(wrapClientTLS(options, endpoint))


def _authorities(ssl: ModuleType, ca_file: str) -> Any:
    try:
        certificates = _CERTIFICATE.findall(Path(ca_file).read_bytes())
        authorities = [ssl.Certificate.loadPEM(pem) for pem in certificates]
    except OSError as error:
        raise BadAddress(f"{ca_file}: {error.strerror or error}") from error
    except Exception as error:
        # The exceptions of pyOpenSSL cannot be named here: it may not be installed.
        raise BadAddress(f"{ca_file}: a certificate in the file cannot be read") from error
    if not authorities:
        raise BadAddress(f"{ca_file}: the file has no certificate in PEM format")
    return ssl.trustRootFromCertificates(authorities)


def permanent_error(url: str, error: BaseException) -> CursorError | None:
    """
    Return the exception for an error that another attempt would meet again.

    @return: C{None} if another attempt may succeed.
    """
    text = describe(error)
    for cause in causes(error):
        if isinstance(cause, BadHead):
            return UnexpectedAnswer(f"{url}: {cause}", maybe_performed=True)
        # pyOpenSSL and service_identity may not be installed, so this function knows their
        # classes by the names of their modules.
        module = type(cause).__module__.partition(".")[0]
        if module == "service_identity":
            return CertificateRefused(
                f"{url}: expected a certificate for this host, got one for another name"
            )
        if module == "OpenSSL" and _UNTRUSTED in text:
            return CertificateRefused(
                f"{url}: expected a certificate by a trusted authority, got another"
                f" ({text}); name its authority in a CA file"
            )
        if module == "OpenSSL" and any(phrase in text for phrase in _NO_TLS):
            return UnexpectedAnswer(f"{url}: expected TLS, got something else ({text})")
    return None
