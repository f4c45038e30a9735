"""
TLS connections to etcd, with pyOpenSSL.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from pexservice.core.failures import describe
from pexservice.process import pyopenssl_guard
from pexservice.stores.errors import StoreMisconfigured
from pexservice.stores.etcd.address import EtcdAddress
from pexservice.stores.etcd.gateway import ATTEMPT_SECONDS

_log = Logger()

#: A client certificate that expires in fewer days causes a warning.
MIN_CERTIFICATE_DAYS = 14

#: Called with a host name; returns the object that makes TLS connections to this host.  The
#: certificate of the host must contain the name.
Policy = Callable[[str], IOpenSSLClientConnectionCreator]


def agent(address: EtcdAddress, reactor: IReactorTime, pool: HTTPConnectionPool) -> IAgent:
    """
    Return an HTTP agent that connects to etcd with TLS.

    @raise StoreMisconfigured: a file cannot be used, or pyOpenSSL is not installed.
    """
    try:
        policy = _policy(address)
    except ImportError as error:
        raise StoreMisconfigured(f"{address}: https requires pyOpenSSL: {error}") from error
    except OSError as error:
        raise StoreMisconfigured(
            f"{address}: {error.filename}: {error.strerror}"
        ) from error
    except Exception as error:
        files = ", ".join(filter(None, (address.ca, address.certificate, address.key)))
        raise StoreMisconfigured(
            f"{address}: cannot use the PEM files {files}: {describe(error)}"
        ) from error
    over_tls: IAgent = Agent.usingEndpointFactory(
        reactor, _Endpoints(reactor, policy), pool
    )
    return over_tls


def expiry(address: EtcdAddress) -> float | None:
    """
    Return when the client certificate expires, in seconds since 1970.

    Log a warning if it expires soon.  L{agent} has checked the file before.

    @return: C{None} if there is no client certificate.
    """
    if address.certificate is None:
        return None
    from OpenSSL import crypto  # noqa: PLC0415 only for a certificate

    pem = Path(address.certificate).read_bytes()
    text = crypto.load_certificate(crypto.FILETYPE_PEM, pem).get_notAfter() or b""
    ends = datetime.strptime(text.decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    days = (ends - datetime.now(UTC)).days
    if days < MIN_CERTIFICATE_DAYS:
        _log.warn(
            "the client certificate {path} ends in {days} days, on {ends}; replace it, and"
            " reload the service",
            path=address.certificate,
            days=days,
            ends=f"{ends:%Y-%m-%d %H:%M} UTC",
        )
    return ends.timestamp()


@implementer(IStreamClientEndpoint)
@frozen
class _TLSEndpoint:
    """
    The endpoint of one address, with TLS.

    Twisted's own class does not work here: it does nothing if Twisted was imported while
    L{pexservice.process.pyopenssl_guard} was set.
    """

    address: IStreamClientEndpoint
    creator: IOpenSSLClientConnectionCreator

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """
        Connect; the result is the protocol whose data is encrypted.
        """
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415 as below

        factory = TLSMemoryBIOFactory(self.creator, True, protocolFactory)  # noqa: FBT003 isClient
        connected: Deferred[Any] = self.address.connect(factory)
        return connected.addCallback(lambda protocol: protocol.wrappedProtocol)


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """
    The factory of endpoints, with TLS for URLs that begin with C{https}.
    """

    reactor: IReactorTime
    policy: Policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        plain = HostnameEndpoint(self.reactor, host, uri.port, ATTEMPT_SECONDS)
        if uri.scheme != b"https":
            return plain
        return _TLSEndpoint(plain, self.policy(host))


def _policy(address: EtcdAddress) -> Policy:
    pyopenssl_guard.lift()
    from twisted.internet import ssl  # noqa: PLC0415 imports pyOpenSSL

    root = certificate = None
    if address.ca is not None:
        pem = Path(address.ca).read_bytes()
        end = b"-----END CERTIFICATE-----"
        root = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM(part + end) for part in pem.split(end) if part.strip()]
        )
    if address.certificate is not None and address.key is not None:
        # Twisted causes this warning at each client certificate.
        warnings.filterwarnings("ignore", "Passing pyOpenSSL", DeprecationWarning)
        parts = [Path(name).read_bytes() for name in (address.key, address.certificate)]
        certificate = ssl.PrivateCertificate.loadPEM(b"\n".join(parts))

    return partial(ssl.optionsForClientTLS, trustRoot=root, clientCertificate=certificate)
