"""
The command C{python -m pexservice}: C{twistd}, or C{pexctl} for C{pexctl}'s commands.

It does not matter where C{twistd} is installed.
"""

import sys

from pexservice.cli.service_command import is_pexctl, print_front_page
from pexservice.process.signals import START_SIGNALS, end_with_parent

if __name__ == "__main__":
    # Before the imports below: a signal may arrive during them, or the supervisor end.
    if "pexservice" in sys.argv:
        START_SIGNALS.install()
    if "--supervisor" in sys.argv[:-1]:
        supervisor = sys.argv[sys.argv.index("--supervisor") + 1]
        if supervisor.isdecimal():
            end_with_parent(int(supervisor))

    if is_pexctl(sys.argv[1:]):
        # Before Twisted, which not every verb needs.
        from pexservice.cli.pexctl import main

        sys.exit(main())
    if print_front_page(sys.argv[1:]):
        sys.exit()

    import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

    # isort: split

    from twisted.scripts.twistd import run

    run()
