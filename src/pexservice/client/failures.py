"""
The reasons why a request had no answer: they may pass in a moment, or they last.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectingTimedOut
from twisted.python.failure import Failure
from twisted.web._newclient import (  # the exceptions of its client have no other home
    ParseError,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
)

from pexservice.client.answers import shown
from pexservice.client.bodies import BodyTooLong
from pexservice.client.errors import CertificateRefused, CursorError, UnexpectedAnswer


class TimedOut(Exception):
    """
    An attempt that got no answer within its time.
    """


#: The ways a request may break.
BROKEN: tuple[type[Exception], ...] = (
    TimedOut,
    BodyTooLong,
    ConnectError,
    ConnectionClosed,
    ConnectingTimedOut,
    DNSLookupError,
    RequestNotSent,
    ResponseFailed,
    RequestTransmissionFailed,
)

#: OpenSSL's words for a certificate that is not trusted, and for bytes that are no TLS.
_UNTRUSTED = "certificate verify failed"
_NO_TLS = ("wrong version number", "packet length too long", "http request")


def reasons(error: BaseException) -> Iterator[BaseException]:
    """
    List the exceptions inside one of Twisted's client, or that one itself if it has none.
    """
    inner = getattr(error, "reasons", None)
    if not inner:
        yield error
    for each in inner or ():
        if isinstance(each, Failure) and each.value is not None:
            yield from reasons(each.value)


def lasting(url: str, error: BaseException) -> CursorError | None:
    """
    Return the exception for an error that lasts, or C{None} for one that may pass.

    Another attempt will not change an error that lasts.
    """
    for each in reasons(error):
        kind, words = type(each), _words(each)
        if isinstance(each, ParseError):
            return UnexpectedAnswer(f"{url}: expected HTTP, got {shown(each.data)}")
        if isinstance(each, BodyTooLong):
            return UnexpectedAnswer(f"{url}: expected a state, got a body without an end")
        if kind.__module__.startswith("service_identity"):
            return CertificateRefused(
                f"{url}: expected a certificate for this host, got one for another name"
            )
        if kind.__module__.startswith("OpenSSL"):
            if _UNTRUSTED in words:
                return CertificateRefused(
                    f"{url}: expected a certificate by a trusted authority, got: {words};"
                    " name its authority in a CA file"
                )
            if any(known in words for known in _NO_TLS):
                return UnexpectedAnswer(f"{url}: expected TLS, got something else: {words}")
    return None


def explain(error: BaseException) -> str:
    """
    Say on one line why a request broke.
    """
    return "; ".join(dict.fromkeys(map(_words, reasons(error))))


def _words(error: BaseException) -> str:
    if type(error).__module__.startswith("OpenSSL") and error.args:
        found = error.args[0]
        if isinstance(found, list):
            return "; ".join(dict.fromkeys(str(each[-1]) for each in found))
    return " ".join(str(error).split()) or type(error).__name__
