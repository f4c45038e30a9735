"""
Tests that hold the server to the responses of version 1.0.0.
"""

from __future__ import annotations

from hashlib import sha256

import pytest
from attrs import evolve

from tests.support.conversations import conversation
from tests.support.forms import amount
from tests.support.recorded import (
    CONVERSATIONS,
    RECORD,
    record,
    summary,
    unexplained_differences,
)
from tests.support.seam import converse

pytestmark = pytest.mark.skipif(
    not RECORD.exists(), reason="the Debian package's sources leave out tests/nets"
)


def test_responses_are_those_of_the_recorded_version() -> None:
    """
    In each conversation the responses are those recorded, except for accepted differences.
    """
    seeds = range(0, CONVERSATIONS, amount(short=40, long=1))
    wrong = [*unexplained_differences(seeds)]
    if wrong:
        shown = "\n".join(wrong[:20])
        pytest.fail(f"{len(wrong)} conversations differ:\n{shown}", pytrace=False)


def test_record_covers_statuses_and_all_seeds() -> None:
    """
    The record is complete, small, and has every status that a request can lead to.
    """
    lines = record()
    assert len(lines) == CONVERSATIONS
    assert RECORD.stat().st_size < 1_000_000
    statuses = {status for line in lines for status in line.statuses}
    assert statuses >= {
        *("100", "200", "204", "304", "400", "401", "403", "404", "405"),
        *("412", "413", "421", "422", "429", "431"),
    }


def test_conversations_are_the_same_in_every_version_of_python() -> None:
    """
    A seed always leads to the same conversation: the generator was not changed by mistake.
    """
    digest = sha256(repr([conversation(seed) for seed in range(300)]).encode())
    assert digest.hexdigest()[:16] == "e1824a1403e0e28c"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"200 OK", b"201 Created"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Pex-Position: 1", b"Pex-Position: 2"),
        (b"\r\n\r\n1\n", b"\r\n\r\n2\n"),
        (b"Vary: Accept\r\n", b""),
    ],
)
def test_digest_covers_status_headers_and_value(old: bytes, new: bytes) -> None:
    """
    A response that differs in its status, a header or the value has another digest.
    """
    step = [b"POST /next HTTP/1.1\r\nHost: h\r\n\r\n"]
    exchange = converse("remote", step, patient=True, ends=False)
    assert old in exchange.received
    other = evolve(exchange, received=exchange.received.replace(old, new))
    assert summary(other).responses != summary(exchange).responses
