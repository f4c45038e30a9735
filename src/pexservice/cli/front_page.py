"""
The answers of C{python -m pexservice} to command lines that start nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: The services, by the names that twistd knows them by.
SERVICES = ("pexservice", "pexservice-worker")

FRONT_PAGE = """\
A durable cursor over the Fibonacci sequence, served over HTTP.

Start it:
  twistd -n pexservice [options]   in the foreground, on http://127.0.0.1:8081
  twistd pexservice [options]      as a daemon: twistd.pid, twistd.log
  twistd pexservice --help         its options

Look after it:
  pexctl --help                    status, backup and more
  pexctl status                    does it take steps?

"python -m pexservice" stands for "twistd" and for "pexctl" where they are not on the
path: python -m pexservice -n pexservice, python -m pexservice status.
"""


def answer(arguments: Sequence[str], verbs: Sequence[str]) -> int | None:
    """
    Answer a command line that starts nothing.

    @param verbs: the verbs of C{pexctl}.
    @return: the exit status, or C{None} if twistd is to take the command line.
    """
    if any(each in SERVICES for each in arguments):
        return None
    words = [each for each in arguments if not each.startswith("-")]
    if arguments and words == list(arguments[:1]):
        # Most requests for help have no wrong word, and do without this import.
        from pexservice.settings.values import near  # noqa: PLC0415 see above

        hint = near(words[0], [*SERVICES, *verbs])
        sys.stderr.write(
            f"pexservice: there is no command {words[0]}{hint}; see python -m pexservice\n"
        )
        return 64
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(FRONT_PAGE)
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        sys.stdout.write(f"pexservice {version('pexservice')}\n")
        return 0
    return None
