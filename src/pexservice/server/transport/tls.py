"""
HTTPS: uvloop's, by the standard library's L{ssl}, or Twisted's, by pyOpenSSL.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from twisted.internet.interfaces import IProtocolFactory

from pexservice.process import import_guard
from pexservice.process.exit_status import Misconfigured, cannot_use


def context(certificate: str, key: str) -> ssl.SSLContext:
    """
    Return a server's context.

    @param certificate: the path of a PEM file with the certificate, and those between
        it and the root.
    @param key: the path of a PEM file with its key.
    @raise CannotStart: it names the file.
    """
    for path in (certificate, key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise cannot_use(f"the TLS file {path}", error) from error
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # One protocol is spoken here; a client that offers others learns it.
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(
            f"the TLS certificate {certificate} with the key {key}: {_reason(error)}"
        ) from error
    return made


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to type a password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "they do not belong together"
    return str(reason or error).lower().replace("_", " ") if reason else str(error)


def wrapped(factory: IProtocolFactory, certificate: str, key: str) -> IProtocolFactory:
    """
    C{factory} behind TLS, for reactors other than uvloop's.

    @raise CannotStart: pyOpenSSL is not installed.
    """
    import_guard.lift()
    try:
        from twisted.internet.ssl import CertificateOptions  # noqa: PLC0415
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415
    except ImportError:
        raise Misconfigured("TLS takes uvloop or pyOpenSSL, and neither is here") from None

    options = CertificateOptions(acceptableProtocols=[b"http/1.1"])
    # Made once, and then shared by all connections.
    made = options.getContext()
    made.use_certificate_chain_file(certificate)
    made.use_privatekey_file(key)
    return TLSMemoryBIOFactory(options, False, factory)  # noqa: FBT003 isClient
