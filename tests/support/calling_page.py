"""
The programs of docs/calling.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "calling.md").read_text()

#: The address that the programs call.
URL = "http://127.0.0.1:8081"

#: The language and the program after each heading.
PROGRAMS: dict[str, tuple[str, str]] = {
    heading: (language, program)
    for heading, language, program in re.findall(
        r"(?ms)^##+ ([^\n]*)\n(?:(?!^#).)*?^```(\w+)\n(.*?)^```$", PAGE
    )
}

_COMMANDS = {
    "python": (sys.executable, "-c"),
    "sh": ("sh", "-euc"),
    "javascript": ("node", "-e"),
}


def command(heading: str, port: int, *, also: str = "") -> list[str]:
    """
    Return the command that runs the program after C{heading} on a port of 127.0.0.1.

    @param also: code to run at the end of the program.
    """
    language, program = PROGRAMS[heading]
    assert URL in program
    program = program.replace(URL, f"http://127.0.0.1:{port}")
    return [*_COMMANDS[language], program + also]
