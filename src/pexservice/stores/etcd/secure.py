"""
TLS to etcd, by pyOpenSSL; see also L{pexservice.process.import_guard}.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IPolicyForHTTPS
from zope.interface import implementer

from pexservice.stores.etcd.address import Address
from pexservice.stores.interface import StoreUnusable


def agent(
    address: Address, reactor: IReactorTime, timeout: float, pool: HTTPConnectionPool
) -> IAgent:
    """
    @raise StoreUnusable: a file cannot be used, or pyOpenSSL is not installed.
    """
    try:
        policy = _policy(address)
    except ImportError as error:
        raise StoreUnusable(f"{address}: https takes pyOpenSSL: {error}") from error
    except OSError as error:
        raise StoreUnusable(f"{address}: {error.filename}: {error.strerror}") from error
    except Exception as error:
        raise StoreUnusable(f"{address}: no usable PEM files: {error!r}") from error
    made: IAgent = Agent(reactor, policy, timeout, pool=pool)
    return made


def _policy(address: Address) -> IPolicyForHTTPS:
    from twisted.internet import ssl  # noqa: PLC0415 what takes pyOpenSSL

    root = ours = None
    if address.ca is not None:
        pem = Path(address.ca).read_bytes()
        end = b"-----END CERTIFICATE-----"
        root = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM(each + end) for each in pem.split(end) if each.strip()]
        )
    if address.certificate is not None and address.key is not None:
        # Twisted's doing, at each client certificate.
        warnings.filterwarnings("ignore", "Passing pyOpenSSL", DeprecationWarning)
        parts = [Path(each).read_bytes() for each in (address.key, address.certificate)]
        ours = ssl.PrivateCertificate.loadPEM(b"\n".join(parts))

    @implementer(IPolicyForHTTPS)
    class Policy:
        """
        The same for every endpoint, whose name the certificate must have.
        """

        def creatorForNetloc(
            self, hostname: bytes, port: int
        ) -> IOpenSSLClientConnectionCreator:
            """
            See L{IPolicyForHTTPS.creatorForNetloc}.
            """
            made: IOpenSSLClientConnectionCreator = ssl.optionsForClientTLS(
                hostname.decode("ascii"), trustRoot=root, clientCertificate=ours
            )
            return made

    return Policy()
