"""
The witness of the newest commit: a file of some bytes next to the data file.

If a bit in LMDB's newest meta page is flipped, LMDB may use the previous meta page.  Then
the store is consistent, but acknowledged steps are missing, and only another file can show
that.  So the revision of each commit is written to the witness, after the commit and before
the response.

A commit is durable before its revision is written to the witness.  So a store whose
revision is lower than that in its witness has lost commits.

The witness is flushed when the store is opened or closed, but not at a commit.  So a commit
needs only one more small write.  A power cut discards writes that were not flushed.
So after a power cut, the witness may be older than the store, incomplete or missing, and
this is no sign of damage.

The witness also records damage that was found while the store was open.  Then no standby
opens the store, and the service opens it only after a verification.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from twisted.logger import Logger

from pexservice.stores.errors import StoreDamaged
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import WITNESS_FILE
from pexservice.stores.lmdb.file_system import sync_directory
from pexservice.stores.lmdb.records import WitnessRecord


class Witness:
    """
    The witness of a store that this process has locked.
    """

    _log = Logger()

    def __init__(self, path: Path, revision: int, *, was_verified: bool) -> None:
        """
        Open or make the witness of the store in C{path}, which is at C{revision}.

        @param was_verified: whether this process has made the store, or verified all of it.
        @raise StoreDamaged: the store is older than its witness; or the witness records
            damage, and C{was_verified} is false.
        """
        self._directory = path
        self._file: int | None = None
        # A read in one thread may find damage during a commit in another thread.
        self._lock = threading.Lock()
        witnessed = read_witness(path)
        check_not_older(path, revision, witnessed)
        if witnessed is not None and not (witnessed.sound or was_verified):
            raise StoreDamaged(
                f"the store {self._directory} was found damaged while it was served"
            )
        if witnessed is None and revision:
            self._log.warn(
                "the store {store} has no witness of its newest commit, so nobody can tell"
                " whether it is the newest; from now on it has one",
                store=self._directory,
            )
        try:
            if witnessed != WitnessRecord(revision):
                # This allocates the block, so no later write needs space on the disk.
                renew_witness(path, revision)
            self._file = os.open(path / WITNESS_FILE, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            # The disk may be full.  The service can still commit into its disk reserve.
            self._continue_without_file(error)

    def write(self, record: WitnessRecord) -> None:
        """
        Write C{record} into the file.  After a record of damage, close the file.

        This raises no exception, because the commit is already durable.
        """
        with self._lock:
            if self._file is None:
                return
            try:
                os.pwrite(self._file, records.encode_witness(record), 0)
            except OSError as error:
                self._continue_without_file(error)
            if not record.sound:
                # A commit that is in progress must not replace this record.
                self.close()

    def close(self) -> None:
        """
        Make the witness durable, and close its file.
        """
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                self._continue_without_file(error)
        self._release()

    def _continue_without_file(self, error: OSError) -> None:
        self._log.error(
            "the store {store} goes on without a witness of its newest commit: {reason}",
            store=self._directory,
            reason=error.strerror,
        )
        self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def renew_witness(path: Path, revision: int) -> None:
    """
    Write the witness of the store in C{path}, which is at C{revision}, durably.

    @raise OSError: the witness cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    file = os.open(path / WITNESS_FILE, flags, 0o600)
    try:
        os.pwrite(file, records.encode_witness(WitnessRecord(revision)), 0)
        # An incomplete witness may have had any size.
        os.ftruncate(file, records.WITNESS_SIZE)
        os.fsync(file)
    finally:
        os.close(file)
    sync_directory(path)


def read_witness(path: Path) -> WitnessRecord | None:
    """
    Return the witness of the store in C{path}; C{None} if it is missing or incomplete.

    @raise OSError: the witness cannot be read.
    """
    try:
        with (path / WITNESS_FILE).open("rb") as file:
            return records.decode_witness(file.read(records.WITNESS_SIZE + 1))
    except (FileNotFoundError, records.BadRecord):
        return None


def check_not_older(path: Path, revision: int, witnessed: WitnessRecord | None) -> None:
    """
    Check that the store in C{path}, at C{revision}, is not older than C{witnessed}.

    @raise StoreDamaged: the store is older than the witness.
    """
    if witnessed is not None and witnessed.revision > revision:
        raise StoreDamaged(
            f"the store {path} is damaged: it is at revision {revision}, but its file"
            f" {WITNESS_FILE} has revision {witnessed.revision}, so acknowledged steps are"
            f" gone; to go on without them, remove {WITNESS_FILE}"
        )
