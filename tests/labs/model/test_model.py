"""
The short form: the response to every request is the model's.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.model.lab import converse
from tests.support.forms import amount

#: Most of the time goes to restarts, whose number is random.
EXAMPLES = amount(short=20, long=30)


def test_every_response_is_the_one_of_the_model(tmp_path: Path) -> None:
    """
    The conversations have keys, preconditions, pages of the history, and restarts.
    """
    responses = converse(tmp_path, EXAMPLES)
    print(responses)
    assert responses["200"] > 10 * EXAMPLES
    # There were enough other responses, too.
    assert responses.total() - responses["200"] > 2 * EXAMPLES
