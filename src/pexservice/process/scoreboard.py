"""
The scoreboard: memory that a supervisor shares with its workers.

It is a file without a name (C{memfd_create}), whose descriptor each worker inherits.  No
process waits for another process: workers can read the file even if the supervisor hangs.
The kernel frees the memory when the last process has ended.

The records are::

    record        written by                module
    report        the supervisor            process/supervisor_report.py
    claim         the first worker          stores/claim.py
    verification  the worker with the lock  stores/verification.py
    losses        pexctl reload --accept    process/accepted_losses.py

A supervisor of version 1.0.0 writes its report at the beginning of the file; see
L{pexservice.process.report_1_0}.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from attrs import frozen

#: The name that the kernel shows for the file.
_MEMFD_NAME = "pexservice-scoreboard"

#: How often a reader tries while another process writes.  A write takes a microsecond.
MAX_READ_ATTEMPTS = 10

_LENGTH = _CHECKSUM = struct.Struct("<I")


@frozen
class Record:
    """
    The place of one record in the file.

    A record is the length of its content, the content and a checksum of both.  A process
    may read a record while another process writes it.  Then the checksum does not match,
    and the record is read again.

    @ivar offset: where the record begins.
    @ivar capacity: how many bytes the record may have.
    """

    offset: int
    capacity: int

    def write(self, descriptor: int, content: bytes) -> None:
        """
        @raise ValueError: the content is too long.
        """
        data = _LENGTH.pack(len(content)) + content
        data += _CHECKSUM.pack(zlib.crc32(data))
        if len(data) > self.capacity:
            raise ValueError(f"a record of {len(data)} bytes, of at most {self.capacity}")
        os.pwrite(descriptor, data, self.offset)

    def read(self, descriptor: int) -> bytes | None:
        """
        @return: the content; C{None} if none was written, or while it is being written.
        """
        for _ in range(MAX_READ_ATTEMPTS):
            data = os.pread(descriptor, self.capacity, self.offset)
            if len(data) < _LENGTH.size:
                return None
            end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
            if end == _LENGTH.size:
                return None
            checksum = data[end : end + _CHECKSUM.size]
            if checksum == _CHECKSUM.pack(zlib.crc32(data[:end])):
                return data[_LENGTH.size : end]
        return None


#: The report of version 1.0.0 has the first 2048 bytes.  In JSON, a character of the report
#: may take 12 bytes.
REPORT = Record(2048, 32768)
CLAIM = Record(34816, 2048)
ACCEPTED_LOSSES = Record(36864, 2048)
VERIFICATION = Record(38912, 2048)


def create() -> int:
    return os.memfd_create(_MEMFD_NAME, os.MFD_CLOEXEC)


def adopt(descriptor: int) -> None:
    """
    Check an inherited C{descriptor} of the scoreboard.  Child processes do not inherit it.

    @raise OSError: C{descriptor} is not open, or no file.
    """
    os.set_inheritable(descriptor, False)  # noqa: FBT003 its only argument
    REPORT.read(descriptor)


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
