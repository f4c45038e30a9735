"""
C{python -m pexservice} is C{twistd}, wherever that is installed.
"""

from twisted.scripts.twistd import run

if __name__ == "__main__":
    run()
