"""
The negative control of the power cuts: a writer that trusts LMDB without syncs.

C{python unsynced.py DIRECTORY} prints the number that it found there, and then each number
that LMDB, told not to sync, says it has committed.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

import lmdb

#: Between two commits, so that the writer is no load of its own.  Seconds.
_PAUSE = 0.002


def main(path: Path) -> None:
    """
    Commit one number after the other, until killed or until the power is cut.
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
                time.sleep(_PAUSE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
