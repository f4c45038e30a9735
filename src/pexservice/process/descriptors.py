"""
The limit of files and connections that this process may have open.
"""

from __future__ import annotations

import resource

from pexservice.process.exit_status import Misconfigured

#: File descriptors that connections never get: up to 64 for the store, logs, sockets and
#: files that are open for a moment, 16 for connections that were told to go and close at
#: the next turn of the reactor, and 32 for those that are told that there is no room.
RESERVE = 112


#: The least limit of open files: with fewer, Twisted, uvloop or the store finds no
#: descriptor left.
LEAST = 64


def check_limit() -> None:
    """
    Check that this process may open as many files as it needs without connections.

    @raise Misconfigured: the limit of open files is too low.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST:
        raise Misconfigured(
            f"the limit of open files is {soft}, and {LEAST} are the least that is needed;"
            " raise it with ulimit -n or LimitNOFILE="
        )


def room_for(connections: int) -> int:
    """
    Raise the limit of open files as far as C{connections} need and the system allows.

    @return: how many connections there is room for.  The kernel would accept more, and
        nobody would answer them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - RESERVE))
