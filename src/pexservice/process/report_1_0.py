"""
The report of a supervisor of version 1.0.0.  No other version writes this record.

An upgrade leaves such a supervisor running, with workers of this version.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

from pexservice.process.scoreboard import MAX_READ_ATTEMPTS

#: The reasons why workers end, in the order of their counts.
_REASONS = (
    *("replaced", "silent", "store_failed", "cannot_start"),
    *("killed", "failed", "misconfigured"),
)

#: The record at the beginning of the scoreboard, without its mark of 8 bytes.  A checksum
#: follows the record.
_RECORD = struct.Struct(f"<8x5Q16s16s2Q{len(_REASONS)}Q512s")
_CHECKSUM_BYTES = 4


def read_values(descriptor: int) -> dict[str, Any] | None:
    """
    Return the report as the attributes of a C{SupervisorReport}.

    @return: C{None} if there is no such record, or while one is being written.
    """
    size = _RECORD.size
    for _ in range(MAX_READ_ATTEMPTS):
        data = os.pread(descriptor, size + _CHECKSUM_BYTES, 0)
        record, checksum = data[:size], data[size:]
        if checksum == zlib.crc32(record).to_bytes(_CHECKSUM_BYTES, "little"):
            failovers, standbys, wanted_standbys, *rest = _RECORD.unpack(record)
            reloads, reload, active, previous, since, pause, *counts, note = rest
            ended_by_reason = dict(zip(_REASONS, counts, strict=True))
            return {
                "failovers": failovers,
                "standby_count": standbys,
                "wanted_standby_count": wanted_standbys,
                "ended_by_reason": ended_by_reason,
                "reloads": reloads,
                "reload": reload,
                "active_worker": _text(active),
                "previous_worker": _text(previous),
                "active_since_ms": since,
                "takeover_us": pause,
                "note": _text(note),
                # A worker of version 1.0.0 always retries.
                "retry_opening": True,
                # That supervisor does not count the possible lock holders, so assume one.
                "possible_lock_holders": 1,
                # An end by SIGKILL is not suspicious, but that supervisor counts all
                # signals together.  So a worker may verify the store without need.
                "suspicious_ends": ended_by_reason["store_failed"]
                + ended_by_reason["killed"],
            }
    return None


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="ignore")
