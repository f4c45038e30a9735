"""
C{python -m pexservice} is C{twistd}, wherever that is installed.
"""

import pexservice.lean  # noqa: F401 before Twisted

# isort: split

from twisted.scripts.twistd import run

if __name__ == "__main__":
    run()
