"""
A guard that keeps pyOpenSSL out of a process until something there speaks TLS with it.

Twisted imports pyOpenSSL wherever it is installed: 9 MiB in each of three processes.
Only a worker without uvloop, or with a store behind HTTPS, may need it, and only when its
settings say so.  Importing this module before Twisted sets the guard.
"""

import sys

_NAME = "OpenSSL"

# None stands for a module that is not installed.
sys.modules.setdefault(_NAME, None)  # type: ignore[arg-type]


def lift() -> None:
    """
    Let pyOpenSSL be imported from now on.

    Modules of Twisted that were imported before go on without it, so whatever needs it
    imports C{twisted.internet.ssl} and C{twisted.protocols.tls} after this call.
    """
    if sys.modules.get(_NAME, sys) is None:
        del sys.modules[_NAME]
