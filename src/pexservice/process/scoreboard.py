"""
What the supervisor counts, where its workers can read it.

A worker answers C{/metrics}, but how often workers ended, and why, only the supervisor
knows.  So it keeps one small record in memory that it shares with them: a file that has
no name (C{memfd_create}), which each worker inherits as a descriptor.  Nobody waits for
anybody, a supervisor that hangs can be read, and the memory goes with the last process
that has it.

A reader may come in the middle of a write.  The record ends in a checksum, so it sees
that and reads again.
"""

from __future__ import annotations

import os
import struct
import zlib

from attrs import define, field

#: Why workers end: told to, to be replaced; silent for too long; a commit failed; it
#: could not start; any other signal; any other status.
REPLACED, SILENT, STORE_FAILED, CANNOT_START, KILLED, FAILED = REASONS = (
    *("replaced", "silent", "store_failed", "cannot_start", "killed", "failed"),
)

#: How often a reader that came in the middle of a write tries again.  A write takes a
#: microsecond.
_ATTEMPTS = 10

#: The mark with the version, the failovers, the standbys that there are and that there
#: should be, the restarts; then the checksum of these.
_RECORD = struct.Struct(f"<8s3Q{len(REASONS)}Q")
_CHECKSUM = struct.Struct("<I")
_MARK = b"pexscor1"


@define
class Score:
    """
    @ivar failovers: how often a worker that served ended, and nobody had told it to.
    @ivar standing_by: how many workers wait to take over.
    @ivar standby: how many should.
    @ivar restarts: how many workers ended, by the reason, while there should be some.
    """

    failovers: int = 0
    standing_by: int = 0
    standby: int = 0
    restarts: dict[str, int] = field(factory=lambda: dict.fromkeys(REASONS, 0))


def create() -> int:
    """
    @return: the descriptor of a new scoreboard.
    """
    return os.memfd_create("pexservice-scoreboard", os.MFD_CLOEXEC)


def inherit(descriptor: int) -> None:
    """
    Keep it from our own children.

    @raise OSError: C{descriptor} is something else.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
    read(descriptor)


def write(descriptor: int, score: Score) -> None:
    """
    Let everybody read C{score}.
    """
    counts = [score.restarts[reason] for reason in REASONS]
    record = _RECORD.pack(_MARK, score.failovers, score.standing_by, score.standby, *counts)
    os.pwrite(descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), 0)


def read(descriptor: int) -> Score | None:
    """
    @return: what was written last, or L{None} if there is no whole record.
    @raise OSError: C{descriptor} is something else.
    """
    for _ in range(_ATTEMPTS):
        found = os.pread(descriptor, _RECORD.size + _CHECKSUM.size, 0)
        record, checksum = found[: _RECORD.size], found[_RECORD.size :]
        if checksum == _CHECKSUM.pack(zlib.crc32(record)):
            mark, failovers, standing_by, standby, *counts = _RECORD.unpack(record)
            if mark != _MARK:
                return None
            restarts = dict(zip(REASONS, counts, strict=True))
            return Score(failovers, standing_by, standby, restarts)
    return None
