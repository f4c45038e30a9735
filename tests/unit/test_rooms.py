"""
The sizes of the rooms' modules and classes, so that a reader gets through each at once.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pexservice

MODULES = sorted(Path(pexservice.__file__).parent.rglob("*.py"))

#: The most lines of a module, all of them counted, and the most attributes of a class
#: but for the one that has an attribute for each option.
LINES = 350
ATTRIBUTES = 20


def attributes(of: ast.ClassDef) -> set[str]:
    """
    Return the names that a class declares for its instances, or that its methods set.
    """
    declared = {
        each.target.id
        for each in of.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    return declared | {
        each.attr
        for each in ast.walk(of)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }


def test_sizes() -> None:
    """
    No module has more than 350 lines, and no class more than 20 attributes.
    """
    texts = {path: path.read_text() for path in MODULES}
    assert [str(path) for path, text in texts.items() if text.count("\n") > LINES] == []
    classes = [
        each
        for text in texts.values()
        for each in ast.walk(ast.parse(text))
        if isinstance(each, ast.ClassDef) and each.name != "Settings"
    ]
    assert [each.name for each in classes if len(attributes(each)) > ATTRIBUTES] == []
