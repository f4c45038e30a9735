"""
The TLS context of a worker, made from the operator's files.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from pexservice.process.exit_status import Misconfigured, cannot_use

#: What the two files must contain, and a part of the line that begins it.
_CONTENTS = (
    ("certificate", b"BEGIN CERTIFICATE-----"),
    ("private key", b"PRIVATE KEY-----"),
)

#: Why OpenSSL refuses a certificate or a key.  The keys are OpenSSL's names of the reasons.
_OPENSSL_REASONS = {
    "KEY_VALUES_MISMATCH": "they do not belong together",
    "PEM_LIB": "one of them is damaged",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed by a method that is not safe any more",
}


def context(certificate: str, key: str) -> ssl.SSLContext:
    """
    Return the TLS context of a server.

    @param certificate: the path of a PEM file with the certificate and the intermediate
        certificates.
    @param key: the path of a PEM file with the key of the certificate.
    @raise CannotStart: a file cannot be used.  The message names the file.
    """
    for path, (name, mark) in zip((certificate, key), _CONTENTS, strict=True):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise cannot_use(f"the TLS file {path}", error) from error
        if mark not in content:
            raise Misconfigured(
                f"the TLS file {path} has no {name} in PEM form, which has a line with"
                f" {mark.decode()}"
            )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # A client may offer several protocols; the server selects this one.
    tls.set_alpn_protocols(["http/1.1"])
    try:
        tls.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured(
            f"the TLS certificate {certificate} with the key {key}: {_reason(error)}"
        ) from error
    return tls


def expiry(certificate: str) -> float:
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
