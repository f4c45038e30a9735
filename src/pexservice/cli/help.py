"""
The text of C{--help}, with the options in groups.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from pexservice.settings.option import GROUPS, Option

#: The width of the column before the descriptions, and of a line.  Characters.
_INDENT = 26
_WIDTH = 80


def grouped(description: str, options: Sequence[Option]) -> str:
    """
    Return the help text that follows the synopsis.
    """
    lines = ["", *textwrap.wrap(description, _WIDTH)]
    for group in GROUPS:
        members = [option for option in options if option.group == group]
        if members:
            lines += ["", f"{group}:"]
        for option in members:
            lines += _entry(f"--{option.name} {option.value}".rstrip(), help_of(option))
    lines += ["", "Help:", *_entry("--help", "Display this help and exit.")]
    lines += _entry("--version", "Display the version and exit.")
    return "\n".join([*lines, ""])


def help_of(option: Option) -> str:
    """
    Return the help of C{option}, with its default value if that can be shown.
    """
    values = [
        text for text in option.arguments(option.default) if text != f"--{option.name}"
    ]
    return option.help + (f" [default: {' '.join(values)}]" if values else "")


def _entry(head: str, text: str) -> Iterator[str]:
    head = f"  {head}"
    if len(head) > _INDENT - 2:
        yield head
        head = ""
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"{head:{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
    )
