"""
The files that the options name, except for the store and the access log.
"""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime

from attrs import frozen
from twisted.logger import Logger

from pexservice.core.text import read_small_file
from pexservice.process.exit_status import Misconfigured, cannot_use
from pexservice.settings.options import Settings
from pexservice.web.access import read_tokens

_log = Logger()

#: A worker logs a warning at its start if its certificate expires in fewer days than this.
EXPIRY_WARNING_DAYS = 14

#: For each of the two TLS files: its content in words, and a text that it must contain.
_CONTENTS = (
    ("certificate", b"BEGIN CERTIFICATE-----"),
    ("private key", b"PRIVATE KEY-----"),
)

#: A mapping from OpenSSL's name of an error to the reason in words.
_OPENSSL_REASONS = {
    "KEY_VALUES_MISMATCH": "they do not belong together",
    "PEM_LIB": "one of them is damaged",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed by a method that is not safe any more",
}


@frozen
class Files:
    """
    The content of the files that the options name.

    @ivar tokens: digests of the tokens that may move the cursor; C{None} if steps need no
        token.
    @ivar tls: the TLS context for all connections, or C{None} without TLS.
    @ivar certificate_expires: when the certificate expires, in seconds since the epoch.
    """

    tokens: frozenset[bytes] | None
    tls: ssl.SSLContext | None
    certificate_expires: float | None

    def warn_of_expiry(self) -> None:
        if self.certificate_expires is None:
            return
        days = (self.certificate_expires - time.time()) / (24 * 3600)
        if days < EXPIRY_WARNING_DAYS:
            end = datetime.fromtimestamp(self.certificate_expires, UTC)
            _log.warn(
                "the TLS certificate {verb} on {end}; renew it and reload",
                verb="expires" if days > 0 else "expired",
                end=end.isoformat(timespec="minutes").replace("+00:00", "Z"),
            )


def read_files(settings: Settings) -> Files:
    """
    @raise CannotStart: a file cannot be used; the message names the file.
    """
    return Files(
        None if settings.token_file is None else read_tokens(settings.token_file),
        None if settings.tls is None else tls_context(*settings.tls),
        None if settings.tls is None else _expiry(settings.tls[0]),
    )


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """
    Return the TLS context of a server.

    @param certificate: the path of a PEM file with the certificate and the intermediate
        certificates.
    @param key: the path of a PEM file with the key of the certificate.
    @raise CannotStart: a file cannot be used.  The message names the file.
    """
    for path, (name, mark) in zip((certificate, key), _CONTENTS, strict=True):
        try:
            content = read_small_file(path)
        except OSError as error:
            raise cannot_use(f"the TLS file {path}", error) from error
        if mark not in content:
            raise Misconfigured(
                f"the TLS file {path} has no {name} in PEM form, which has a line with"
                f" {mark.decode()}"
            )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # A client may offer several protocols, of which the server selects this one.
    tls.set_alpn_protocols(["http/1.1"])
    try:
        tls.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(
            f"the TLS certificate {certificate} with the key {key}: {_reason(error)}"
        ) from error
    return tls


def _expiry(certificate: str) -> float:
    """
    Return when the first certificate in a PEM file expires, in seconds since the epoch.
    """
    decoded = ssl._ssl._test_decode_cert(certificate)  # type: ignore[attr-defined]  # noqa: SLF001 the only way in the standard library
    return ssl.cert_time_to_seconds(decoded["notAfter"])


def _no_password() -> str:
    raise ValueError("the key is encrypted; use one without a password")


def _reason(error: Exception) -> str:
    if not isinstance(error, ssl.SSLError):
        return str(error)
    # OpenSSL gives no reason if it could not read one of the files.
    reason = error.reason or "PEM_LIB"
    words = reason.lower().replace("_", " ")
    return _OPENSSL_REASONS.get(reason, f"they cannot be used ({words})")
