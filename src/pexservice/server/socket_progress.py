"""
The progress of a connection, as the kernel counts it.

A transport only tells that its buffer is full and that it has room again, with up to some
megabytes in between: a client on a slow line takes minutes for that, and is not stuck.  The
kernel knows of each byte.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

#: C{tcpi_bytes_acked} in C{struct tcp_info} of C{linux/tcp.h}.
_BYTES_ACKED = struct.Struct("=120xQ")

#: An C{int}, as C{SIOCOUTQ} gives it; see unix(7) and tcp(7).
_QUEUED = struct.Struct("=i")


def bytes_taken(handle: socket.socket | None) -> int | None:
    """
    Return a number that changes when the client takes some of what it is sent.

    @param handle: the connection's socket, or C{None} where there is none to ask.
    @return: for TCP, the number of bytes that the peer has acknowledged; for another
        stream, minus the number of bytes that wait to be read; C{None} if neither is known.
    """
    if handle is None or handle.fileno() < 0:
        return None
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])
    except (OSError, struct.error):
        # The socket is not TCP, or is closed.
        pass
    try:
        queued = fcntl.ioctl(handle.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size))
    except OSError:
        return None
    return -int(_QUEUED.unpack(queued)[0])
