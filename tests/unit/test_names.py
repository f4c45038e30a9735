"""
One word, one meaning: a class or a constant has its name for itself.
"""

from __future__ import annotations

import re
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


#: The definition of a public class, or of a constant.
_DEFINITION = re.compile(r"(?m)^class ([A-Z]\w*)|^([A-Z][A-Z0-9_]*)(?:: .+)? = ")


def test_public_classes_and_constants_have_one_meaning_each() -> None:
    modules: dict[str, set[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        for class_name, constant in _DEFINITION.findall(path.read_text()):
            modules.setdefault(class_name or constant, set()).add(path)
    shared = {name for name, paths in modules.items() if len(paths) > 1}
    assert shared == SHARED_NAMES.keys()
