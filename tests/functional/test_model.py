"""
Whatever is asked, the answer is the model's.
"""

from __future__ import annotations

from pathlib import Path

from tests.functional.model import converse

#: What takes less than half a minute; a good part goes to restarts, which are drawn.
EXAMPLES = 40


def test_conversations(tmp_path: Path) -> None:
    """
    On every endpoint, with keys, preconditions and restarts.
    """
    answers = converse(tmp_path, EXAMPLES)
    print(answers)
    assert answers["200"] > 10 * EXAMPLES
    for what in ("204", "304", "400", "404", "405", "412"):
        assert answers[what] > 0, what
