"""
Tests that the service and h11 find the same requests in the same bytes.
"""

from __future__ import annotations

import pytest

from tests.support.forms import amount
from tests.support.framing import by_h11, stream, unknown_differences

STREAMS = amount(short=500, long=20_000)


def test_requests_end_where_h11_ends_them() -> None:
    """
    The streams are those that both parsers accept.  They arrive complete or in pieces.
    """
    wrong = [*unknown_differences(range(STREAMS))]
    if wrong:
        pytest.fail("\n".join([f"{len(wrong)} differ", *wrong[:10]]), pytrace=False)


def test_half_of_the_streams_are_accepted_by_both() -> None:
    """
    The other tests would pass if both parsers refused everything.
    """
    refused = sum(by_h11(stream(seed)).refused for seed in range(200))
    assert 20 < refused < 150
