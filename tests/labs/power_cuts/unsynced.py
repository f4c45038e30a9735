"""
The negative control of the power cuts: a writer that uses LMDB without flushes.

C{python unsynced.py DIRECTORY} prints the last number in the database.  Then it commits
higher numbers without flushes, and prints each one after its commit.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import lmdb

#: The pause between two commits, so that the writer causes little load.
PAUSE_SECONDS = 0.002


def main(path: Path) -> None:
    """
    Commit one number after the other, until the process is killed or the power is cut.
    """
    with lmdb.open(str(path), sync=False) as env:
        with env.begin() as reading:
            number = int(reading.get(b"number", b"0"))
        print(number, flush=True)
        with suppress(lmdb.Error):
            while True:
                number += 1
                txn = env.begin(write=True)
                txn.put(b"number", str(number).encode())
                txn.commit()
                print(number, flush=True)
                time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
