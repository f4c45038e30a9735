"""
The witness of the newest commit: a few bytes beside the file that is the store.

LMDB begins with the newer one of two meta pages.  A flipped bit in that page can make it
begin with the older one, whose state is as whole as the last: nothing in the file tells
that steps are gone which callers were told of.  So the revision of each commit is written
into a file of its own, after the commit and before the answer.

The witness is flushed only when the store is closed in order, so it costs one small write.
The revision in it was durable before it was written; so a store that is older than its
witness has lost commits.  A witness that is older than the store, torn or missing is no
sign of damage: a power cut takes back what was not flushed, and the witness lies within one
sector of the disk.

The witness also tells of damage that was found while the store was served, so that a worker
that takes over does not go on with the store without reading it all.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import Logger

from pexservice.stores.interface import StoreDamaged
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.directory import WITNESS, sync
from pexservice.stores.lmdb.records import Witnessed


class Witness:
    """
    The witness of a store that this process owns.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        """
        @param path: the store's directory.
        """
        self._path = path / WITNESS
        self._file: int | None = None

    def open(self, revision: int, *, verified: bool) -> None:
        """
        Begin to witness the commits of a store at C{revision}.

        @param verified: whether the whole store was read.
        @raise StoreDamaged: the store is older than its witness, or was found damaged and
            is not verified.
        """
        found = check_witness(self._path.parent, revision)
        if found is not None and not (found.sound or verified):
            raise StoreDamaged(
                f"the store {self._path.parent} was found damaged while it was served"
            )
        if found is None and revision:
            self._log.warn(
                "the store {store} has no witness of its newest commit, so nobody can tell"
                " whether it is the newest; from now on it has one",
                store=self._path.parent,
            )
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            if found is None:
                self._begin(self._file, revision)
        except OSError as error:
            # As on a full disk, which need not stop a service that has its room.
            self._give_up(error)
        if found is not None and found != Witnessed(revision):
            self.write(Witnessed(revision))

    def _begin(self, file: int, revision: int) -> None:
        """
        Make the witness's file, so that no write to it takes room on the disk any more.
        """
        os.ftruncate(file, 0)
        os.pwrite(file, records.write_witness(Witnessed(revision)), 0)
        os.fsync(file)
        sync(self._path.parent)

    def write(self, told: Witnessed) -> None:
        """
        Witness that a revision is durable, or that the store was found damaged at it.

        An error here does not concern the commit, which is made already.
        """
        if self._file is not None:
            try:
                os.pwrite(self._file, records.write_witness(told), 0)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._log.error(
            "the store {store} goes on without a witness of its newest commit: {reason}",
            store=self._path.parent,
            reason=error.strerror,
        )
        self._release()

    def close(self) -> None:
        """
        Make the witness durable, and close its file, if that is open.
        """
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                self._give_up(error)
        self._release()

    def _release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def read_witness(path: Path) -> Witnessed | None:
    """
    Return the witness of the store in C{path}, or C{None} if it is missing or torn.

    @raise OSError: the witness cannot be read.
    """
    try:
        with (path / WITNESS).open("rb") as file:
            return records.read_witness(file.read(records.WITNESS_SIZE + 1))
    except (FileNotFoundError, records.BadRecord):
        return None


def check_witness(path: Path, revision: int) -> Witnessed | None:
    """
    Compare the store in C{path}, at C{revision}, with its witness.

    @return: the witness, as from L{read_witness}.
    @raise StoreDamaged: the store is older than its witness.
    """
    witness = read_witness(path)
    refuse_older(path, revision, witness)
    return witness


def refuse_older(path: Path, revision: int, witness: Witnessed | None) -> None:
    """
    Compare the store in C{path}, at C{revision}, with C{witness}.

    @raise StoreDamaged: the store is older than its witness.
    """
    if witness is not None and witness.revision > revision:
        raise StoreDamaged(
            f"the store {path} is damaged: it is at revision {revision}, but its file"
            f" {WITNESS} tells of {witness.revision}, so acknowledged steps are gone;"
            f" to go on without them, remove {WITNESS}"
        )


def make_witness(path: Path, revision: int) -> None:
    """
    Give a durable witness to the store in C{path}, a directory that no other process knows.
    """
    with (path / WITNESS).open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(records.write_witness(Witnessed(revision)))
        file.flush()
        os.fsync(file.fileno())
