"""
The connections to a service: over TCP, TLS and Unix sockets, from one pool.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from pexservice.client.addresses import Address
from pexservice.client.errors import BadAddress

#: How long a connection may take to be made.  Seconds.
CONNECTING = 5.0

#: After how long the next address of a name is tried too, and a refusal of the only one is
#: known.  Seconds: Twisted's 0.3 is for networks where that would be a burden.
NEXT_ADDRESS = 0.05

#: How long a connection is kept without a request: less than a service or nginx keeps it,
#: so that few requests meet a connection that is being closed.  Seconds.
KEPT = 30

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.ASCII
)


def make_pool(reactor: Any, connections: int) -> HTTPConnectionPool:
    """
    Return a pool that keeps at most C{connections} connections to each service.
    """
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = connections
    pool.cachedConnectionTimeout = KEPT
    # Only the caller, which knows the key of a step, knows whether to send it again.
    pool.retryAutomatically = False
    return pool


def make_agent(
    address: Address, reactor: Any, pool: HTTPConnectionPool, ca_file: str | None
) -> IAgent:
    """
    Return an agent that sends requests to C{address}, and to nothing else.

    @param pool: the connections to this address alone.
    @param ca_file: a PEM file of authorities that are trusted, instead of the system's.
    @raise BadAddress: the file cannot be used, or TLS is not installed.
    """
    policy = _policy(address, ca_file) if address.secure else None
    agent: IAgent = Agent.usingEndpointFactory(
        reactor, _Endpoints(reactor, address, policy), pool
    )
    return agent


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """
    A factory of endpoints that lead to one service, whatever the URL of a request is.

    @ivar policy: which certificates are trusted, where the service is reached over TLS.
    """

    reactor: Any
    address: Address
    policy: IPolicyForHTTPS | None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """
        Return an endpoint that leads to the service; see C{IAgentEndpointFactory}.
        """
        endpoint: IStreamClientEndpoint
        address = self.address
        if address.socket is not None:
            endpoint = UNIXClientEndpoint(self.reactor, address.socket, timeout=CONNECTING)
            return endpoint
        endpoint = HostnameEndpoint(
            self.reactor,
            address.host,
            address.port,
            timeout=CONNECTING,
            attemptDelay=NEXT_ADDRESS,
        )
        if self.policy is None:
            return endpoint
        creator = self.policy.creatorForNetloc(address.host.encode(), address.port)
        secure: IStreamClientEndpoint = wrapClientTLS(creator, endpoint)
        return secure


def _policy(address: Address, ca_file: str | None) -> IPolicyForHTTPS:
    try:
        from twisted.internet.ssl import (  # noqa: PLC0415 an extra of Twisted's
            Certificate,
            platformTrust,
            trustRootFromCertificates,
        )
        from twisted.web.client import BrowserLikePolicyForHTTPS  # noqa: PLC0415 as above
    except ImportError as error:
        raise BadAddress(
            f"{address}: https takes pyOpenSSL and service_identity ({error});"
            " pip install 'twisted[tls]'"
        ) from error
    if ca_file is None:
        policy: IPolicyForHTTPS = BrowserLikePolicyForHTTPS(platformTrust())
        return policy
    try:
        found = _CERTIFICATE.findall(Path(ca_file).read_bytes())
    except OSError as error:
        raise BadAddress(f"{ca_file}: {error.strerror or error}") from error
    if not found:
        raise BadAddress(f"{ca_file}: there is no certificate in PEM in it")
    try:
        authorities = [Certificate.loadPEM(each) for each in found]
    except Exception as error:
        # The exceptions of pyOpenSSL have no names where pyOpenSSL is not installed.
        raise BadAddress(f"{ca_file}: a certificate that cannot be read") from error
    trusting: IPolicyForHTTPS = BrowserLikePolicyForHTTPS(
        trustRootFromCertificates(authorities)
    )
    return trusting
