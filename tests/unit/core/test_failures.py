"""
The reasons of failed requests, in words.
"""

from __future__ import annotations

import pytest
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError
from twisted.web.client import (
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import _DataLoss

from pexservice.core.failures import describe


class TLSError(Exception):
    """
    An error with the details that pyOpenSSL's errors have.
    """


CLOSED = "the connection closed before the complete response arrived"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ResponseFailed([Failure(ConnectionDone())]), f"{CLOSED} (ConnectionDone)"),
        (
            RequestTransmissionFailed([Failure(ConnectionLost())] * 2),
            f"{CLOSED} (ConnectionLost)",
        ),
        (ConnectionAborted(), f"{CLOSED} (ConnectionAborted)"),
        (
            ResponseFailed([Failure(ConnectionDone()), Failure(_DataLoss("CRLF"))]),
            f"{CLOSED} (ConnectionDone)",
        ),
        *(
            (ResponseNeverReceived([Failure(error)]), "the response is not valid HTTP")
            for error in (ValueError("2, got 1"), KeyError(b"x"), ParseError("status", b""))
        ),
        (ConnectError(111), "Connection refused"),
        (DNSLookupError("no such host"), "DNS lookup failed: no such host"),
        (
            TLSError([("SSL routines", "", "certificate verify failed")]),
            "TLS: certificate verify failed",
        ),
        (TLSError([]), "TLS: no reason given"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines.\n"), "two lines"),
    ],
)
def test_message_can_continue_after_the_reason_of_a_failure(
    error: Exception, reason: str
) -> None:
    assert describe(error) == reason
