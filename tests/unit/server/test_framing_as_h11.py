"""
Tests that the service and h11 find the same requests in the same bytes.
"""

from __future__ import annotations

import pytest

from tests.support.forms import amount
from tests.support.framing import Parsed, by_h11, by_service, stream, unknown_differences

STREAMS = amount(short=500, long=20_000)

_HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
_FRAMED = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(_HIDDEN)


def test_requests_end_where_h11_ends_them() -> None:
    """
    The streams are those that both parsers accept.  They arrive complete or in pieces.
    """
    wrong = [*unknown_differences(range(STREAMS))]
    if wrong:
        pytest.fail("\n".join([f"{len(wrong)} differ", *wrong[:10]]), pytrace=False)


@pytest.mark.parametrize("parse", [by_h11, lambda data: by_service([data])])
def test_request_inside_a_body_is_not_found(parse: object) -> None:
    """
    The streams can show a difference: both parsers report what they found.
    """
    assert callable(parse)
    assert parse(_FRAMED + _HIDDEN) == Parsed((b"POST /a HTTP/1.1",))
    assert parse(_HIDDEN + _FRAMED) == Parsed((b"GET /hidden HTTP/1.1",))


def test_half_of_the_streams_are_accepted_by_both() -> None:
    """
    The other tests would pass if both parsers refused everything.
    """
    refused = sum(by_h11(stream(seed)).refused for seed in range(200))
    assert 20 < refused < 150
