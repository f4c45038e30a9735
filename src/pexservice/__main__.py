"""
The command C{python -m pexservice}, which runs C{pexctl} or C{twistd}.

It runs C{pexctl} for a verb such as C{status}, and C{twistd} otherwise.  It also works if
neither of them is in the C{PATH}.
"""

import os
import sys

from pexservice.cli.service_command import is_pexctl, pexctl, print_front_page
from pexservice.process.signals import START_SIGNALS, end_with_parent

if __name__ == "__main__":
    # These calls come before the imports below, which take long.  Otherwise a SIGHUP would
    # kill the process meanwhile, and a worker would notice its supervisor's end too late.
    if "pexservice" in sys.argv:
        START_SIGNALS.install()
    if "--supervisor" in sys.argv[:-1]:
        # The supervisor alone handles Ctrl-C, and stops its workers by SIGTERM.  At Ctrl-C,
        # the terminal sends SIGINT to its process group, so this worker leaves it.
        os.setpgid(0, 0)
        supervisor = sys.argv[sys.argv.index("--supervisor") + 1]
        if supervisor.isdecimal():
            end_with_parent(int(supervisor))

    if is_pexctl(sys.argv[1:]):
        # This comes before the import of Twisted, which some verbs do not need.
        sys.exit(pexctl())
    if print_front_page(sys.argv[1:]):
        sys.exit()

    import pexservice.process.pyopenssl_guard  # noqa: F401 before Twisted

    # isort: split

    from twisted.scripts.twistd import run

    run()
