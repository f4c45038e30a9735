"""
C{--help}: the options in groups, instead of in the order of the alphabet.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from twisted.python.usage import Options

#: By group, the options and what stands for their values.  One that is in none is
#: told at the end.
GROUPS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Where it listens",
        {"listen": "ENDPOINT", "tls-certificate": "PEM", "tls-key": "PEM"},
    ),
    (
        "What it keeps",
        {"store": "URL", "synchronous-commit": "on|off", "journal": "N"},
    ),
    (
        "Who may do what",
        {
            "token-file": "FILE",
            "cors-origin": "ORIGIN",
            "rate-limit": "N",
            "max-connections": "N",
            "trusted-proxy": "ADDRESS",
        },
    ),
    (
        "How it is kept alive",
        {
            "standby": "N",
            "watchdog": "SECONDS",
            "lifeline": "N",
            "scoreboard": "N",
            "quick-check": "",
        },
    ),
    ("What it tells", {"access-log": "FILE", "help": "", "version": ""}),
)

#: The width of what stands before the descriptions, and of a line.
_INDENT = 26
_WIDTH = 80


def grouped(options: Options) -> str:
    """
    What follows the synopsis.
    """
    known = {long.rstrip("="): long.endswith("=") for long in options.longOpt}
    placed = {name for _, names in GROUPS for name in names}
    others = {name: "VALUE" * known[name] for name in sorted(known.keys() - placed)}
    lines = ["", *textwrap.wrap(getattr(options, "longdesc", ""), _WIDTH)]
    for title, names in (*GROUPS, ("Other", others)):
        told = [name for name in names if name in known]
        if told:
            lines += ["", f"{title}:"]
        for name in told:
            lines += _option(options, name, names[name])
    return "\n".join([*lines, ""])


def _option(options: Any, name: str, value: str) -> Iterator[str]:
    default = options.defaults.get(name)
    # Of a flag it is 0.
    told = "" if default is None or not value else f" [default: {default}]"
    # A docstring may have a line of its own for each part.
    text = " ".join((options.docs[name] or "").split()) + told
    head = f"  --{name} {value}".rstrip()
    lines = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
    if len(head) > _INDENT - 2:
        yield head
        head = ""
    yield f"{head:{_INDENT}}{lines[0]}"
    for line in lines[1:]:
        yield " " * _INDENT + line
