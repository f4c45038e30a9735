"""
One word, one meaning: a class or a constant has its name for itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pexservice

PACKAGE = Path(pexservice.__file__).parent

_TYPE_VARIABLES = "a variable of the type checker, which is used in its module only"
_CLIENT = "the client exports this name, and it means what it means in the service"

#: Names that two modules may define, and why.
SHARED_NAMES = {
    "Cursor": _CLIENT,
    "T": _TYPE_VARIABLES,
    "OutcomeUnknown": _CLIENT,
    "State": _CLIENT,
    "Step": _CLIENT,
}


def names(module: ast.Module) -> Iterator[str]:
    """
    Yield the public classes and all constants that C{module} defines.
    """
    for node in module.body:
        match node:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                yield name
            case ast.Assign(targets=targets):
                for target in targets:
                    if isinstance(target, ast.Name) and target.id.isupper():
                        yield target.id
            case ast.AnnAssign(target=ast.Name(id=name)) if name.isupper():
                yield name
            case _:
                pass


def names_of_several_modules() -> set[str]:
    modules: dict[str, set[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in names(ast.parse(path.read_text())):
            modules.setdefault(name, set()).add(path)
    return {name for name, paths in modules.items() if len(paths) > 1}


def test_public_classes_and_constants_have_one_meaning_each() -> None:
    assert names_of_several_modules() == SHARED_NAMES.keys()
