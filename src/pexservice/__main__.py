"""
The command C{python -m pexservice}: C{twistd}, or C{pexctl} for C{pexctl}'s commands.

It does not matter where C{twistd} is installed.
"""

import sys

from pexservice.cli.front_page import answer, is_pexctl
from pexservice.process.signals import START_SIGNALS, end_with_parent

if __name__ == "__main__" and "pexservice" in sys.argv:
    # Before the other imports, for a signal may come during them.
    START_SIGNALS.install()

if __name__ == "__main__" and "--supervisor" in sys.argv[:-1]:
    # Before the other imports, for the supervisor may end during them.
    lifeline = sys.argv[sys.argv.index("--supervisor") + 1]
    if lifeline.isdecimal():
        end_with_parent(int(lifeline))

if __name__ == "__main__" and is_pexctl(sys.argv[1:]):
    # Before Twisted, which not every verb needs.
    from pexservice.cli.pexctl import main

    sys.exit(main())

import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

# isort: split

if __name__ == "__main__" and (status := answer(sys.argv[1:])) is not None:
    sys.exit(status)

from twisted.scripts.twistd import run

if __name__ == "__main__":
    run()
