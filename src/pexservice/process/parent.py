"""
The end of a process whose parent, the process that started it, has ended.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable

#: How long a process whose parent is gone may take to stop.  Seconds.
ORPHAN_GRACE = 0.8

#: How long the next parent waits for sockets that such processes still have, and how long
#: between two tries.  Seconds.
ORPHANS_PATIENCE = 3.0
ORPHANS_INTERVAL = 0.1


def end_with_parent(descriptor: int, stop: Callable[[], object] | None = None) -> None:
    """
    End this process when the process at the other end of a pipe has ended.

    It does not matter how that process ended.  A thread waits for its end, so that this
    process ends even when it hangs.

    @param descriptor: either end of a pipe whose other end only the parent has.
    @param stop: called in that thread to stop in order; after L{ORPHAN_GRACE} seconds the
        process is killed.  Without C{stop}, the process is killed at once.
    """

    def wait() -> None:
        # With no events asked for, poll still tells that the other end is closed.
        poll = select.poll()
        poll.register(descriptor, 0)
        poll.poll()
        if stop is not None:
            stop()
            time.sleep(ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
