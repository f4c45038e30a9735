"""
Tests that hold the server to the responses of version 1.0.0.
"""

from __future__ import annotations

import pytest

from tests.support.forms import amount
from tests.support.recorded import CONVERSATIONS, RECORD, differences

pytestmark = pytest.mark.skipif(
    not RECORD.exists(), reason="the Debian package's sources leave out tests/nets"
)


def test_responses_are_those_of_the_recorded_version() -> None:
    seeds = range(0, CONVERSATIONS, amount(short=40, long=1))
    wrong = [*differences(seeds)]
    if wrong:
        shown = "\n".join(wrong[:20])
        pytest.fail(f"{len(wrong)} conversations differ:\n{shown}", pytrace=False)
