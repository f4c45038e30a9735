"""
To be imported before Twisted: what our processes do without.

Twisted imports pyOpenSSL where it is installed, 9 MiB for each of three processes, and
only a worker that speaks TLS without uvloop needs it; see
L{pexservice.server.transport.tls}.
And one whose etcd speaks TLS.  Twisted decides once whether it has it, long before
anybody has read the options, so they are looked for here.
"""

import sys

if not any("etcd:" in each and "https:" in each for each in sys.argv):
    # None stands for a module that is not installed.
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
