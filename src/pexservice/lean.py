"""
To be imported before Twisted: what our processes do without.

Twisted imports pyOpenSSL where it is installed, 9 MiB for each of three processes, and
only a worker that speaks TLS without uvloop needs it; see L{pexservice.server.tls}.
"""

import sys

# None stands for a module that is not installed.
sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]
