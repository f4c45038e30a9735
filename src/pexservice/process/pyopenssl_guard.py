"""
A guard that keeps pyOpenSSL out of a process that does not speak TLS by it.

Twisted imports pyOpenSSL if it is installed: 9 MiB in each of three processes.  Only a
worker without uvloop, or with a store behind HTTPS, may need it, and only with certain
options.  Importing this module before Twisted sets the guard.
"""

import sys

# None stands for a module that is not installed.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def lift() -> None:
    """
    Let pyOpenSSL be imported from now on.

    Modules of Twisted that were imported before do without it.  So import
    C{twisted.internet.ssl} and C{twisted.protocols.tls} after this call.
    """
    if sys.modules.get("OpenSSL", sys) is None:
        del sys.modules["OpenSSL"]
