"""
Tests that hold the server to the responses of version 1.0.0.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.support.conversations import conversation
from tests.support.forms import amount
from tests.support.recorded import CONVERSATIONS, RECORD, differences, record

pytestmark = pytest.mark.skipif(
    not RECORD.exists(), reason="the Debian package's sources leave out tests/nets"
)


def test_responses_are_those_of_the_recorded_version() -> None:
    seeds = range(0, CONVERSATIONS, amount(short=40, long=1))
    wrong = [*differences(seeds)]
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
    statuses = {response[:3] for line in lines for response in line.split()}
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
