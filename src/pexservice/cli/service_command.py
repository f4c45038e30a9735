"""
The commands C{pexservice} and C{python -m pexservice}, which run C{twistd} or C{pexctl}.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

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


def names_service(arguments: Sequence[str]) -> bool:
    """
    Return whether a command line is for C{twistd}: it contains the name of a service.
    """
    return "pexservice" in arguments or "pexservice-worker" in arguments


def is_pexctl(arguments: Sequence[str]) -> bool:
    """
    Return whether a command line is for C{pexctl}.

    Such a command line starts with a word, and contains no name of a service.
    """
    starts_with_word = bool(arguments) and not arguments[0].startswith("-")
    return starts_with_word and not names_service(arguments)


def print_front_page(arguments: Sequence[str]) -> bool:
    """
    Print the help or the version, if the command line asks for one of them.

    @return: whether something was printed.  If not, the command line is for C{twistd}.
    """
    if names_service(arguments):
        return False
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(FRONT_PAGE)
        return True
    if arguments[0] == "--version":
        from importlib.metadata import version  # noqa: PLC0415 a megabyte

        sys.stdout.write(f"pexservice {version('pexservice')}\n")
        return True
    return False


def pexctl() -> int:
    """
    Run C{pexctl}, and return its exit status.

    Its imports take long.  If Ctrl-C interrupts them, it prints no traceback.
    """
    try:
        from pexservice.cli.pexctl import main  # noqa: PLC0415 may be interrupted
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return main()


def main() -> None:
    """
    Run the command C{pexservice}: become C{python -m pexservice}, which runs C{twistd}.

    Without the name of a service, the arguments are options of the service, which runs in
    the foreground.  Otherwise C{twistd} gets the arguments as they are.
    """
    arguments = sys.argv[1:]
    if not names_service(arguments):
        arguments = ["--nodaemon", "--pidfile=", "pexservice", *arguments]
    # The process stays the same, so the service gets its signals and sets its exit status.
    os.execv(sys.executable, [sys.executable, "-m", "pexservice", *arguments])
