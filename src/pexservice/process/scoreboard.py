"""
A record of what the supervisor counts, which its workers can read.

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
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any

from attrs import define, field

#: Why workers end: told to, to be replaced; silent for too long; a commit failed; it
#: could not start; any other signal; any other status; an option or a file is wrong.
(REPLACED, SILENT, STORE_FAILED, CANNOT_START, KILLED, FAILED, MISCONFIGURED) = REASONS = (
    *("replaced", "silent", "store_failed", "cannot_start", "killed", "failed"),
    "misconfigured",
)

#: How often a reader that came in the middle of a write tries again.  A write takes a
#: microsecond.
_ATTEMPTS = 10

#: The mark with the version, the failovers, the standbys that there are and that there
#: should be, the reloads and what came of the last, the worker that serves and the one
#: before it, since when and after which pause, the restarts by reason.
_RECORD = struct.Struct(f"<8s5Q16s16s2Q{len(REASONS)}Q")
_MARK = b"pexscor3"

#: As a supervisor of version 0.1.0 writes it, below which newer code may run for a while:
#: without reloads, and with one reason less.
_FIRST_RECORD = struct.Struct("<8s3Q6Q")
_FIRST_MARK = b"pexscor1"

#: Follows the record, of its bytes.
_CHECKSUM = struct.Struct("<I")


class Reload(IntEnum):
    """
    What came of a replacement of the workers.
    """

    NONE = 0
    UNDER_WAY = 1
    SUCCEEDED = 2
    FAILED = 3


@define
class Score:
    """
    What the supervisor counts, since it started.

    @ivar failovers: how often a worker that served ended, and nobody had told it to.
    @ivar standing_by: how many workers wait to take over.
    @ivar standby: how many should.
    @ivar restarts: how many workers ended, by the reason, while there should be some.
    @ivar reloads: how many replacements of the workers began, or L{None} if the supervisor
        does not count them.
    @ivar reload: what came of the last of them.
    @ivar serving: the name of the worker that serves; empty while none does.
    @ivar before: the name of the worker that served before it, and has ended.
    @ivar since: when it began to serve.  Milliseconds since 1970.
    @ivar pause: how long after the end of the worker before it that was.  Microseconds.
    """

    failovers: int = 0
    standing_by: int = 0
    standby: int = 0
    restarts: dict[str, int] = field(factory=lambda: dict.fromkeys(REASONS, 0))
    reloads: int | None = 0
    reload: Reload = Reload.NONE
    serving: str = ""
    before: str = ""
    since: int = 0
    pause: int = 0


def create() -> int:
    """
    Make a new scoreboard.

    @return: its descriptor.
    """
    return os.memfd_create("pexservice-scoreboard", os.MFD_CLOEXEC)


def inherit(descriptor: int) -> None:
    """
    Keep C{descriptor} from our own children.

    @raise OSError: it is something else.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
    read(descriptor)


def write(descriptor: int, score: Score) -> None:
    """
    Let everybody read C{score}.
    """
    counts = [score.restarts[reason] for reason in REASONS]
    record = _RECORD.pack(
        *(_MARK, score.failovers, score.standing_by, score.standby),
        *(score.reloads or 0, score.reload),
        *(score.serving.encode(), score.before.encode(), score.since, score.pause),
        *counts,
    )
    os.pwrite(descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), 0)


def read(descriptor: int) -> Score | None:
    """
    Read what was written last.

    @return: L{None} if there is no whole record.
    @raise OSError: C{descriptor} is something else.
    """
    for _ in range(_ATTEMPTS):
        found = os.pread(descriptor, _RECORD.size + _CHECKSUM.size, 0)
        if (fields := _whole(found, _RECORD, _MARK)) is not None:
            failovers, standing_by, standby, reloads, reload, *fields = fields
            serving, before, since, pause, *counts = fields
            restarts = dict(zip(REASONS, counts, strict=True))
            score = Score(failovers, standing_by, standby, restarts, reloads)
            score.reload = Reload(reload)
            score.serving, score.before = _text(serving), _text(before)
            score.since, score.pause = since, pause
            return score
        if (numbers := _whole(found, _FIRST_RECORD, _FIRST_MARK)) is not None:
            failovers, standing_by, standby, *counts = numbers
            restarts = dict(zip(REASONS, [*counts, 0], strict=True))
            return Score(failovers, standing_by, standby, restarts, reloads=None)
    return None


def reader(descriptor: int | None) -> Callable[[], Score | None]:
    """
    Return what reads a scoreboard, or finds nothing if there is none.
    """
    return (lambda: None) if descriptor is None else partial(read, descriptor)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


def _whole(found: bytes, layout: struct.Struct, mark: bytes) -> Sequence[Any] | None:
    record = found[: layout.size]
    checksum = found[layout.size : layout.size + _CHECKSUM.size]
    if not record.startswith(mark) or checksum != _CHECKSUM.pack(zlib.crc32(record)):
        return None
    return layout.unpack(record)[1:]
