"""
The command lines of C{python -m pexservice} that start nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: The services, by the names that twistd knows them by.
SERVICES = ("pexservice", "pexservice-worker")

FRONT_PAGE = """\
A durable cursor over the Fibonacci sequence, served over HTTP.

Start it:
  pexservice [options]             in the foreground, on http://127.0.0.1:8081
  twistd pexservice [options]      as a daemon: twistd.pid, twistd.log
  twistd pexservice --help         its options

Operate it:
  pexctl help                      status, backup and more
  pexctl status                    does it accept steps?

"python -m pexservice" replaces "twistd" and "pexctl" if they are not on the path:
python -m pexservice -n pexservice, python -m pexservice status.
"""


def is_pexctl(arguments: Sequence[str]) -> bool:
    """
    Return whether a command line is for C{pexctl}: it starts with a word and no service.
    """
    return (
        bool(arguments)
        and not arguments[0].startswith("-")
        and not any(word in SERVICES for word in arguments)
    )


def answer(arguments: Sequence[str]) -> int | None:
    """
    Print the help or the version.

    @return: the exit status, or C{None} if the command line is for twistd.
    """
    if any(word in SERVICES for word in arguments):
        return None
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(FRONT_PAGE)
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        sys.stdout.write(f"pexservice {version('pexservice')}\n")
        return 0
    return None
