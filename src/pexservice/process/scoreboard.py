"""
The scoreboard: a record of the supervisor's counts, which its workers can read.

A worker answers C{/metrics}, but only the supervisor knows how often workers ended, and
why.  So the supervisor keeps one small record in memory that it shares with its workers:
a file that has no name (C{memfd_create}), which each worker inherits as a file
descriptor.  No process waits for another, the record of a supervisor that hangs can be
read, and the memory goes with the last process that has it.

A reader may come in the middle of a write.  Each record ends in a checksum, so the reader
sees that and reads again.

The first record has the form of version 1.0.0, since a supervisor and its workers may be of
different versions.  Behind it lie records that each side may lack: what the score has in
addition, the store that the workers have claimed, and what the operator accepts of the
next reload.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen

#: Why workers end: told to, to be replaced; silent for too long; a commit failed; the
#: worker could not start; any other signal; any other status; an option or a file is
#: wrong.
(REPLACED, SILENT, STORE_FAILED, CANNOT_START, KILLED, FAILED, MISCONFIGURED) = REASONS = (
    *("replaced", "silent", "store_failed", "cannot_start", "killed", "failed"),
    "misconfigured",
)

#: The name that the kernel shows for the file.
_NAME = "pexservice-scoreboard"

#: How often a reader that came in the middle of a write tries again.  A write takes a
#: microsecond.
_ATTEMPTS = 10

#: The note on the last reload is cut at this length.  Bytes.
LONGEST_NOTE = 512

#: The mark with the version, the failovers, the standbys that there are and that there
#: should be, the reloads and the outcome of the last, the worker that serves and the
#: worker before it, since when it serves and after which pause, the restarts by reason,
#: and the note on the last reload.
_RECORD = struct.Struct(f"<8s5Q16s16s2Q{len(REASONS)}Q{LONGEST_NOTE}s")
_MARK = b"pexscor4"

#: The checksum of a record's bytes, which follows the record.
_CHECKSUM = struct.Struct("<I")

#: Where the other records begin, and the length of their content.  Bytes.
_ADDITION, _CLAIM, _ACCEPTED = 2048, 6144, 7168
_LENGTH = struct.Struct("<I")

#: The problem and the options in the additional record are cut at this length.  Bytes.
_MAX_TEXT = 1000


class Reload(IntEnum):
    """
    The outcome of a replacement of the workers.
    """

    NONE = 0
    UNDER_WAY = 1
    SUCCEEDED = 2
    FAILED = 3


@frozen
class Process:
    """
    One process of the service.

    @ivar name: C{supervisor}, or a worker's name as the log has it.
    @ivar state: C{active}, C{standby}, C{starting}, C{not ready}, C{stopping} or C{silent};
        C{running} for the supervisor.
    """

    name: str
    pid: int
    state: str


@define
class Score:
    """
    The supervisor's counts since it started.

    @ivar failovers: how often a worker that served ended without being told to.
    @ivar standing_by: how many workers wait to take over.
    @ivar standby: how many workers should wait to take over.
    @ivar restarts: how many workers ended, by the reason, while workers should run.
    @ivar reloads: how many replacements of the workers began.
    @ivar reload: the outcome of the last replacement.
    @ivar serving: the name of the worker that serves; empty while none does.
    @ivar before: the name of the worker that served before C{serving}, and has ended.
    @ivar since: when C{serving} began to serve.  Milliseconds since 1970.
    @ivar pause: how long after the end of C{before} that was.  Microseconds.
    @ivar note: why the last replacement failed, or which options wait for a restart.
    @ivar possible_owners: how many workers may have the store's lock: those that have
        begun, and neither stand by nor have a reason not to; C{None} if it is not known.
    @ivar problem: why no worker serves; empty while one does, or before the first reason.
    @ivar restart_pending: the options whose change takes effect with a restart.
    @ivar processes: the processes of the service, the supervisor first.
    """

    failovers: int = 0
    standing_by: int = 0
    standby: int = 0
    restarts: dict[str, int] = field(factory=lambda: dict.fromkeys(REASONS, 0))
    reloads: int = 0
    reload: Reload = Reload.NONE
    serving: str = ""
    before: str = ""
    since: int = 0
    pause: int = 0
    note: str = ""
    possible_owners: int | None = None
    problem: str = ""
    restart_pending: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()


def last_reload(score: Score | None) -> str | None:
    """
    Return a phrase with the outcome of the last reload, or C{None} if there was none.

    Return C{None} also if no supervisor counts the reloads.
    """
    if score is None or not score.reloads:
        return None
    outcome = score.reload.name.lower().replace("_", " ")
    note = f": {score.note}" if score.note else ""
    return f"reload {score.reloads} {outcome}{note}"


def create() -> int:
    """
    Make a new scoreboard.

    @return: its descriptor.
    """
    return os.memfd_create(_NAME, os.MFD_CLOEXEC)


def inherit(descriptor: int) -> None:
    """
    Keep the scoreboard's C{descriptor} from this process's own children.

    @raise OSError: C{descriptor} is not open, or no file.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
    read(descriptor)


def of_process(pid: int, flags: int = os.O_RDONLY) -> int | None:
    """
    Open the scoreboard of the supervisor whose process id is C{pid}.

    @param flags: C{os.O_RDWR} to write to it.
    @return: a descriptor, or C{None} if that process has no scoreboard.
    @raise OSError: there is no such process, or it is another user's.
    """
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(each.readlink()).startswith(f"/memfd:{_NAME}"):
                return os.open(each, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            # Closed meanwhile.
            continue
    return None


def write(descriptor: int, score: Score) -> None:
    """
    Write C{score} to the scoreboard.
    """
    counts = [score.restarts[reason] for reason in REASONS]
    record = _RECORD.pack(
        *(_MARK, score.failovers, score.standing_by, score.standby),
        *(score.reloads, score.reload),
        *(score.serving.encode(), score.before.encode(), score.since, score.pause),
        *counts,
        score.note.encode()[:LONGEST_NOTE],
    )
    os.pwrite(descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), 0)
    addition = {
        "possible_owners": score.possible_owners,
        "problem": score.problem[:_MAX_TEXT],
        "restart_pending": score.restart_pending,
        "processes": [asdict(process) for process in score.processes],
    }
    content = json.dumps(addition, ensure_ascii=False).encode()
    _write_record(descriptor, _ADDITION, content)


def read(descriptor: int) -> Score | None:
    """
    Read the score that was written last.

    @return: the score, or C{None} if there is no whole record.
    @raise OSError: C{descriptor} is not open, or no file.
    """
    for _ in range(_ATTEMPTS):
        found = os.pread(descriptor, _RECORD.size + _CHECKSUM.size, 0)
        if (fields := _whole(found)) is not None:
            failovers, standing_by, standby, reloads, reload, *fields = fields
            serving, before, since, pause, *counts, note = fields
            restarts = dict(zip(REASONS, counts, strict=True))
            score = Score(failovers, standing_by, standby, restarts, reloads)
            score.reload = Reload(reload)
            score.serving, score.before = _text(serving), _text(before)
            score.since, score.pause = since, pause
            score.note = _text(note)
            addition = _read_record(descriptor, _ADDITION)
            if addition is not None:
                values = json.loads(addition)
                score.possible_owners = values["possible_owners"]
                score.problem = values["problem"]
                score.restart_pending = tuple(values["restart_pending"])
                score.processes = tuple(Process(**each) for each in values["processes"])
            return score
    return None


class StoreClaim:
    """
    The claim of the workers to one store.

    A worker writes it itself, before it serves: the supervisor might hear of a store only
    after another worker has opened another one.
    """

    def __init__(self, descriptor: int) -> None:
        """
        @param descriptor: the scoreboard's, for reading and writing.
        """
        self._descriptor = descriptor

    def identity(self) -> str | None:
        """
        Return the identity of the claimed store.
        """
        claimed = _read_record(self._descriptor, _CLAIM)
        return None if claimed is None else claimed.decode()

    def take(self, identity: str, *, replace: bool) -> str:
        """
        Claim the store C{identity} unless another one is claimed.
        """
        # Two workers may have opened two stores at the same moment.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            claimed = self.identity()
            if claimed is None or replace:
                _write_record(self._descriptor, _CLAIM, identity.encode())
                claimed = identity
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return claimed


def accept(descriptor: int, options: Sequence[str]) -> None:
    """
    Allow the next reload to change C{options} in a way that needs the operator's word.

    @param descriptor: the supervisor's scoreboard, open for writing.
    """
    _write_record(descriptor, _ACCEPTED, json.dumps([*options]).encode())


def take_accepted(descriptor: int) -> list[str]:
    """
    Return the options that the operator has allowed to change, this once.
    """
    record = _read_record(descriptor, _ACCEPTED)
    accept(descriptor, ())
    options: list[str] = [] if record is None else json.loads(record)
    return options


def _write_record(descriptor: int, offset: int, content: bytes) -> None:
    record = _LENGTH.pack(len(content)) + content
    os.pwrite(descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), offset)


def _read_record(descriptor: int, offset: int) -> bytes | None:
    for _ in range(_ATTEMPTS):
        head = os.pread(descriptor, _LENGTH.size, offset)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        if not 0 < length < _CLAIM - _ADDITION:
            return None
        found = os.pread(descriptor, _LENGTH.size + length + _CHECKSUM.size, offset)
        record, checksum = found[: -_CHECKSUM.size], found[-_CHECKSUM.size :]
        if checksum == _CHECKSUM.pack(zlib.crc32(record)):
            return record[_LENGTH.size :]
    return None


def reader(descriptor: int | None) -> Callable[[], Score | None]:
    """
    Return a function that reads the scoreboard, or returns C{None} if there is none.
    """
    return (lambda: None) if descriptor is None else partial(read, descriptor)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="ignore")


def _whole(found: bytes) -> Sequence[Any] | None:
    record, checksum = found[: _RECORD.size], found[_RECORD.size :]
    if not record.startswith(_MARK) or checksum != _CHECKSUM.pack(zlib.crc32(record)):
        return None
    return _RECORD.unpack(record)[1:]
