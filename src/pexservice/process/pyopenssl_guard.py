"""
A guard that prevents the import of pyOpenSSL in a process that does not need it.

Twisted imports pyOpenSSL if it is installed, which takes 9 MiB in each of three processes.
A worker needs pyOpenSSL only if it serves HTTPS without uvloop, or if its store is behind
HTTPS.  To set the guard, import this module before Twisted.
"""

import sys

# None stands for a module that is not installed.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def lift() -> None:
    """
    Let pyOpenSSL be imported from now on.

    Modules of Twisted that were imported earlier do not use pyOpenSSL.  So import
    C{twisted.internet.ssl} and C{twisted.protocols.tls} after this call.
    """
    if sys.modules.get("OpenSSL", sys) is None:
        del sys.modules["OpenSSL"]
