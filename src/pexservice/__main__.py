"""
C{python -m pexservice} is C{twistd}, wherever that is installed, and C{pexctl} for the
commands that it has.
"""

import sys

from pexservice.process.start_signals import START_SIGNALS

if __name__ == "__main__" and "pexservice" in sys.argv:
    # Before anything else, for a signal may come while it is imported.
    START_SIGNALS.install()

import pexservice.process.import_guard  # noqa: F401 before Twisted

# isort: split

from twisted.scripts.twistd import run

#: Of L{pexservice.cli.pexctl}, which a worker has no use for.
COMMANDS = ("status", "verify", "backup")

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from pexservice.cli.pexctl import main

        sys.exit(main())
    run()
