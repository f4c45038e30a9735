"""
Base URLs, and the connections to the servers behind them: TCP, TLS and Unix sockets.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import URI, Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from pexservice.client.errors import BadAddress

URLS = "http://HOST:PORT, https://HOST:PORT, http+unix://%2FPATH%2FOF%2FSOCKET or unix:PATH"

CONNECT_TIMEOUT_SECONDS = 5.0

#: When the next address of a host name is tried, and when a refusal by its only address is
#: reported.  Twisted's default of 0.3 s spares networks; one client does not load them.
NEXT_ADDRESS_DELAY_SECONDS = 0.05

#: How long an idle connection stays open.  Services and nginx keep idle connections longer,
#: so the client rarely writes to a connection that the server is closing.
IDLE_TIMEOUT_SECONDS = 30

#: The limit for a response's status line and headers, with all interim responses.  Twisted
#: limits the length of one line only.
MAX_HEAD_BYTES = 256 << 10

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.ASCII
)


class ResponseTooLong(Exception):
    """
    A response exceeds one of the client's limits.
    """


@frozen
class Address:
    """
    One base URL.

    @ivar text: the URL as the program wrote it, for messages.
    @ivar url: the URL that paths are appended to.
    @ivar socket: the path of a Unix socket, which replaces host and port.
    """

    text: str
    url: str
    host: str = "localhost"
    port: int = 80
    socket: str | None = None

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """
    Parse a base URL.

    @raise BadAddress: C{text} is not a base URL.
    """
    wrong = BadAddress(f"{text!r} is not a base URL; use {URLS}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong from error
    if parts.query or parts.fragment or not text.isascii() or not text.isprintable():
        raise wrong
    if parts.scheme in ("unix", "http+unix"):
        path = unquote(parts.netloc) + parts.path if parts.netloc else parts.path
        if not path.strip("/"):
            raise wrong
        return Address(text, "http://localhost", socket=path.rstrip("/"))
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise wrong
    if parts.username is not None or " " in text:
        raise wrong
    default_port = 443 if parts.scheme == "https" else 80
    return Address(text, text.rstrip("/"), host, port or default_port)


class _Protocol(HTTP11ClientProtocol):
    """
    A connection that limits the head of a response.
    """

    # The number of bytes of the head so far; None while no head is being received.
    _head_bytes: int | None = None

    def request(self, request: Any) -> Deferred[Any]:
        self._head_bytes = 0
        response: Deferred[Any] = super().request(request)
        return response.addBoth(self._end_head)

    def _end_head(self, response: Any) -> Any:
        self._head_bytes = None
        return response

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._head_bytes is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._giveUp(
                Failure(ResponseTooLong(f"more than {MAX_HEAD_BYTES} bytes of headers"))
            )
            cast(Any, self.transport).abortConnection()


class _Factory(_HTTP11ClientFactory):
    def buildProtocol(self, address: IAddress | None) -> HTTP11ClientProtocol:
        return _Protocol(self._quiescentCallback)


def make_pool(reactor: Any, connections: int) -> HTTPConnectionPool:
    """
    Return a pool that keeps at most C{connections} idle connections to each service.
    """
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = connections
    pool.cachedConnectionTimeout = IDLE_TIMEOUT_SECONDS
    # The pool does not know the key of a step, so it cannot decide about a repetition.
    pool.retryAutomatically = False
    pool._factory = _Factory  # noqa: SLF001 the pool has no other way to choose a protocol
    return pool


def make_agent(
    address: Address, reactor: Any, pool: HTTPConnectionPool, ca_file: str | None
) -> IAgent:
    """
    Return an agent that sends every request to C{address}.

    @param pool: the connections to this address only.
    @param ca_file: a PEM file of authorities to trust instead of the system's.
    @raise BadAddress: the file cannot be used, or TLS is not installed.
    """
    endpoint = _endpoint(address, reactor, ca_file)
    agent: IAgent = Agent.usingEndpointFactory(reactor, _OneEndpoint(endpoint), pool)
    return agent


@implementer(IAgentEndpointFactory)
@frozen
class _OneEndpoint:
    """
    A factory that returns one endpoint, whatever the URL of a request is.
    """

    _endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._endpoint


def _endpoint(address: Address, reactor: Any, ca_file: str | None) -> Any:
    if address.socket is not None:
        return UNIXClientEndpoint(reactor, address.socket, CONNECT_TIMEOUT_SECONDS)
    endpoint = HostnameEndpoint(
        reactor,
        address.host,
        address.port,
        timeout=CONNECT_TIMEOUT_SECONDS,
        attemptDelay=NEXT_ADDRESS_DELAY_SECONDS,
    )
    if not address.url.startswith("https:"):
        return endpoint
    try:
        from twisted.internet import ssl  # noqa: PLC0415 an extra of Twisted's
    except ImportError as error:
        raise BadAddress(
            f"{address}: https requires pyOpenSSL and service_identity ({error});"
            " pip install 'twisted[tls]'"
        ) from error
    trust = ssl.platformTrust() if ca_file is None else _authorities(ssl, ca_file)
    return wrapClientTLS(ssl.optionsForClientTLS(address.host, trust), endpoint)


def _authorities(ssl: ModuleType, ca_file: str) -> Any:
    try:
        certificates = _CERTIFICATE.findall(Path(ca_file).read_bytes())
    except OSError as error:
        raise BadAddress(f"{ca_file}: {error.strerror or error}") from error
    if not certificates:
        raise BadAddress(f"{ca_file}: the file has no certificate in PEM format")
    try:
        authorities = [ssl.Certificate.loadPEM(pem) for pem in certificates]
    except Exception as error:
        # The exceptions of pyOpenSSL have no names where pyOpenSSL is not installed.
        raise BadAddress(f"{ca_file}: a certificate in the file cannot be read") from error
    return ssl.trustRootFromCertificates(authorities)
