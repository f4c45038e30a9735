"""
The scoreboard: records in memory that the supervisor shares with its workers.

A worker responds to C{/metrics}, but only the supervisor knows how often workers ended, and
why.  So the supervisor writes this into a file without a name (C{memfd_create}), whose
descriptor each worker inherits.  No process waits for another process.  Workers can read
the file even if the supervisor hangs.  The kernel frees the memory when the last process
has ended.

The file has four records: the I{report}, which the supervisor writes; the claim, which is
the store that the workers may open; whether that store was verified; and the options whose
protection the next reload may remove.  A process may read a record while another process
writes it.  Then the checksum at the end of the record does not match, and the record is
read again.
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

from attrs import asdict, define, field, frozen

#: The reasons why workers end, in the order in which version 1.0.0 counts them.
END_REASONS = (
    # The worker was retired, by a reload or because it was not up in time.
    REPLACED := "replaced",
    # The worker sent no heartbeat.
    SILENT := "silent",
    # A commit failed.
    STORE_FAILED := "store_failed",
    CANNOT_START := "cannot_start",
    # A signal ended the worker.
    KILLED := "killed",
    # The worker ended with any other status.
    FAILED := "failed",
    # An option or a file is wrong.
    MISCONFIGURED := "misconfigured",
)

#: What a reload would lose if it removed these options.  It needs the operator's consent:
#: it may read a file of which an editor has written only the first half, and this half may
#: be valid TOML.
LOSSES = {
    "token-file": "everybody could move the cursor",
    "tls-certificate": "requests would be sent in plain text",
    "journal": "the oldest steps of the history would be removed for good",
}

#: The name that the kernel shows for the file.
_MEMFD_NAME = "pexservice-scoreboard"

#: How often a reader tries while another process writes.  A write takes a microsecond.
_MAX_ATTEMPTS = 10

#: A text in the report with more characters is cut.
MAX_TEXT_LENGTH = 512

#: Where the records begin in the file.  In JSON a character may take 12 bytes.
_REPORT_OFFSET = 2048
_CLAIM_OFFSET = _REPORT_OFFSET + 32768
_ACCEPTED_OFFSET = _CLAIM_OFFSET + 2048
_VERIFIED_OFFSET = _ACCEPTED_OFFSET + 2048
_MAX_PAYLOAD_BYTES = _CLAIM_OFFSET - _REPORT_OFFSET

#: A record is the length of its content, the content and a checksum of both.
_LENGTH = _CHECKSUM = struct.Struct("<I")

#: The report of a supervisor of version 1.0.0, which an upgrade leaves running.  It begins
#: with a mark.  Then it has the fields of L{SupervisorReport} from C{failovers} to C{note},
#: in another order.
_REPORT_1_0 = struct.Struct(f"<8s5Q16s16s2Q{len(END_REASONS)}Q512s")
_MARK_1_0 = b"pexscor4"


class Reload(IntEnum):
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
class SupervisorReport:
    """
    The supervisor's counts since it started, and the state of its workers.

    @ivar failovers: how often an active worker ended unexpectedly.
    @ivar standby_count: how many standbys there are.
    @ivar wanted_standby_count: how many standbys there should be.
    @ivar ended_by_reason: a mapping from a reason to the number of workers that ended for
        it while workers should run.
    @ivar reloads: how many reloads began.
    @ivar reload: the outcome of the last reload.
    @ivar active_worker: the name of the active worker; empty if no worker is active.
    @ivar previous_worker: the name of the active worker that ended last.
    @ivar active_since_ms: when C{active_worker} became active, in milliseconds since 1970.
    @ivar takeover_us: how long no worker was active before C{active_worker}, in
        microseconds; 0 if the supervisor saw no such time.
    @ivar note: why the last reload failed, or which options wait for a restart.
    @ivar possible_lock_holders: how many workers may have the store's lock; C{None} if this
        number is not known.
    @ivar problem: why no worker is active, if the reason is known; otherwise empty.
    @ivar restart_pending: the options whose change requires a restart.
    @ivar processes: the processes of the service, the supervisor first.
    @ivar address: the address at which programs on this machine reach the service:
        C{HOST:PORT} or C{unix:PATH}.
    @ivar has_tls: whether the service requires TLS.
    """

    failovers: int = 0
    standby_count: int = 0
    wanted_standby_count: int = 0
    ended_by_reason: dict[str, int] = field(factory=lambda: dict.fromkeys(END_REASONS, 0))
    reloads: int = 0
    reload: Reload = Reload.NONE
    active_worker: str = ""
    previous_worker: str = ""
    active_since_ms: int = 0
    takeover_us: int = 0
    note: str = ""
    possible_lock_holders: int | None = None
    problem: str = ""
    restart_pending: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()
    address: str = ""
    has_tls: bool = False


def last_reload(report: SupervisorReport | None) -> str | None:
    """
    Return a phrase with the outcome of the last reload, or C{None} if none is known.
    """
    if report is None or not report.reloads:
        return None
    outcome = report.reload.name.lower().replace("_", " ")
    note = f": {report.note}" if report.note else ""
    return f"reload {report.reloads} {outcome}{note}"


def create() -> int:
    """
    Return the descriptor of a new scoreboard.
    """
    return os.memfd_create(_MEMFD_NAME, os.MFD_CLOEXEC)


def keep_from_children(descriptor: int) -> None:
    """
    Prevent children of this process from inheriting the scoreboard's C{descriptor}.

    @raise OSError: C{descriptor} is not open, or no file.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
    read(descriptor)


def of_process(pid: int, flags: int = os.O_RDONLY) -> int | None:
    """
    Open the scoreboard of the supervisor whose process id is C{pid}.

    @param flags: C{os.O_RDWR} to write to it.
    @return: a descriptor, or C{None} if that process has no scoreboard.
    @raise OSError: there is no such process, or it belongs to another user.
    """
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(link.readlink()).startswith(f"/memfd:{_MEMFD_NAME}"):
                return os.open(link, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            # That process has closed the descriptor.
            continue
    return None


def write(descriptor: int, report: SupervisorReport) -> None:
    values = asdict(report)
    for name in ("note", "problem"):
        values[name] = values[name][:MAX_TEXT_LENGTH]
    _write_record(descriptor, _REPORT_OFFSET, json.dumps(values).encode())


def read(descriptor: int) -> SupervisorReport | None:
    """
    Read the report that was written last.

    @return: the report; C{None} if no report was written, or while one is being written.
    @raise OSError: C{descriptor} is not open, or no file.
    """
    record = _read_record(descriptor, _REPORT_OFFSET)
    if record is None:
        return _read_report_1_0(descriptor)
    values = json.loads(record)
    values["reload"] = Reload(values["reload"])
    values["restart_pending"] = tuple(values["restart_pending"])
    values["processes"] = tuple(Process(**process) for process in values["processes"])
    return SupervisorReport(**values)


def _read_report_1_0(descriptor: int) -> SupervisorReport | None:
    size = _REPORT_1_0.size
    for _ in range(_MAX_ATTEMPTS):
        data = os.pread(descriptor, size + _CHECKSUM.size, 0)
        record, checksum = data[:size], data[size:]
        if record.startswith(_MARK_1_0) and checksum == _CHECKSUM.pack(zlib.crc32(record)):
            _, failovers, standbys, wanted_standbys, *rest = _REPORT_1_0.unpack(record)
            reloads, reload, serving, before, since, pause, *counts, note = rest
            ended = dict(zip(END_REASONS, counts, strict=True))
            report = SupervisorReport(failovers, standbys, wanted_standbys, ended, reloads)
            report.reload, report.note = Reload(reload), _text(note)
            report.active_since_ms, report.takeover_us = since, pause
            report.active_worker, report.previous_worker = _text(serving), _text(before)
            return report
    return None


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="ignore")


def reader(descriptor: int | None) -> Callable[[], SupervisorReport | None]:
    """
    Return a function that reads the scoreboard, or returns C{None} if there is none.
    """
    return (lambda: None) if descriptor is None else partial(read, descriptor)


@frozen
class StoreClaim:
    """
    The claim of a service: the one store that its workers may open.

    The claim is the identity of the store.  Every other store, even a copy, has another
    identity.  The first worker writes the claim itself, before it is active.  If the
    supervisor wrote the claim later, a second worker might open another store meanwhile.
    """

    # The scoreboard, open for reading and writing.
    _descriptor: int

    def identity(self) -> str | None:
        claimed = _read_record(self._descriptor, _CLAIM_OFFSET)
        return None if claimed is None else claimed.decode()

    @property
    def is_verified(self) -> bool:
        """
        Return whether a worker has opened the store, and no verification began later.
        """
        return _read_record(self._descriptor, _VERIFIED_OFFSET) == b"yes"

    def note_verified(self, *, verified: bool) -> None:
        """
        Note that a worker has opened the store, or that it begins a verification.
        """
        _write_record(self._descriptor, _VERIFIED_OFFSET, b"yes" if verified else b"no")

    def take(self, identity: str, *, replace: bool) -> str:
        """
        Claim the store C{identity}, unless another one is claimed.

        @param replace: whether to claim C{identity} in any case, because this process has
            rewritten the store.
        @return: the identity of the store that is claimed now.
        """
        # Two workers may open two stores at the same moment, so a lock is needed.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            claimed = self.identity()
            if claimed is None or replace:
                _write_record(self._descriptor, _CLAIM_OFFSET, identity.encode())
                claimed = identity
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        return claimed


def accept(descriptor: int, options: Sequence[str]) -> None:
    """
    Allow the next reload to remove the protection by C{options}; see L{LOSSES}.

    @param descriptor: the supervisor's scoreboard, open for writing.
    """
    _write_record(descriptor, _ACCEPTED_OFFSET, json.dumps([*options]).encode())


def take_accepted(descriptor: int) -> list[str]:
    """
    Return the options of the last call of L{accept}, and forget them.
    """
    record = _read_record(descriptor, _ACCEPTED_OFFSET)
    accept(descriptor, ())
    options: list[str] = [] if record is None else json.loads(record)
    return options


def _write_record(descriptor: int, offset: int, content: bytes) -> None:
    record = _LENGTH.pack(len(content)) + content
    os.pwrite(descriptor, record + _CHECKSUM.pack(zlib.crc32(record)), offset)


def _read_record(descriptor: int, offset: int) -> bytes | None:
    for _ in range(_MAX_ATTEMPTS):
        head = os.pread(descriptor, _LENGTH.size, offset)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        if not 0 < length < _MAX_PAYLOAD_BYTES:
            return None
        data = os.pread(descriptor, _LENGTH.size + length + _CHECKSUM.size, offset)
        record, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
        if checksum == _CHECKSUM.pack(zlib.crc32(record)):
            return record[_LENGTH.size :]
    return None
