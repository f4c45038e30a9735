"""
C{python -m pexservice} is C{twistd} without what a worker has no use for.
"""

import sys

# Twisted imports pyOpenSSL where it is installed, 5 MiB for each process, and no
# worker here speaks TLS by it.
sys.modules["OpenSSL"] = None  # type: ignore[assignment]

from twisted.scripts.twistd import run  # noqa: E402 after the above

if __name__ == "__main__":
    run()
