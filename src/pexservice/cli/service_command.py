"""
The command C{pexservice}: the supervisor in the foreground.
"""

from __future__ import annotations

import os
import sys

_SERVICES = {"pexservice", "pexservice-worker"}


def main() -> None:
    """
    Become C{python -m pexservice}, which runs twistd.

    With the name of a service among the arguments, they are twistd's.  Without, they are
    the options of the service.
    """
    arguments = sys.argv[1:]
    if not _SERVICES.intersection(arguments):
        arguments = ["--nodaemon", "--pidfile=", "pexservice", *arguments]
    # In the same process, so that signals and the exit status are the service's.
    os.execv(sys.executable, [sys.executable, "-m", "pexservice", *arguments])
