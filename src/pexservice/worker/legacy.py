"""
A worker's work below a supervisor of version 0.1.0.

An upgrade replaces the code below a running supervisor.  A supervisor of version 0.1.0
starts its workers with C{--lifeline N}, a pipe that it never writes to, and listens for
their messages on the socket that C{NOTIFY_SOCKET} names.  This module, the option
C{--lifeline} and L{pexservice.supervised} may go with version 1.2, since an upgrade skips
no version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pexservice.process.sd_notify import Notifier


def connect(lifeline: int, environment: Mapping[str, str]) -> Notifier:
    """
    Return the notifier that a supervisor of version 0.1.0 listens to.

    @param lifeline: the reading end of the supervisor's pipe; this process's own children
        do not inherit it.
    """
    os.set_inheritable(lifeline, False)  # noqa: FBT003 its only argument
    return Notifier.to_service_manager(environment)
