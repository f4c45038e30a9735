"""
The size of the code as a whole, which a change may raise with its reason.

A limit on the lines of each module made slivers of topics that belong together, so only the
totals have limits.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pexservice

MODULES = sorted(Path(pexservice.__file__).parent.rglob("*.py"))
TOPICS = [path for path in MODULES if path.name != "__init__.py"]

#: A change that needs more raises the number, and its commit message says why.
MAX_CODE_LINES = 14_659
MAX_LINES = 25_657
MAX_MODULES = 133

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def docstring_lines(source: str) -> set[int]:
    """
    Return the numbers of the lines that docstrings take.
    """
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def count_code_lines(source: str) -> int:
    """
    Return how many lines have code: neither blank, nor only a comment, nor a docstring.
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(source))


def test_count_of_code_lines_leaves_out_docstrings_comments_and_blank_lines() -> None:
    source = '"""\nA module.\n"""\n\n# A comment.\nx = (\n    1\n)\n'
    assert count_code_lines(source) == 3


def test_package_stays_within_its_total_size() -> None:
    sources = [path.read_text() for path in MODULES]
    assert len(TOPICS) <= MAX_MODULES
    assert sum(source.count("\n") for source in sources) <= MAX_LINES
    assert sum(map(count_code_lines, sources)) <= MAX_CODE_LINES
