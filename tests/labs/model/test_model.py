"""
Whatever is asked, the answer is the model's.
"""

from __future__ import annotations

from pathlib import Path

from tests.labs.model.lab import converse

#: So few take less than half a minute; a good part goes to restarts, which are drawn.
EXAMPLES = 30


def test_every_response_is_the_one_of_the_model(tmp_path: Path) -> None:
    """
    On every endpoint, with keys, preconditions and restarts.
    """
    answers = converse(tmp_path, EXAMPLES)
    print(answers)
    assert answers["200"] > 10 * EXAMPLES
    # There were enough answers that are not a plain success, too.
    assert answers.total() - answers["200"] > 2 * EXAMPLES
