"""
The commands of C{pexctl} on a store in a directory: verify, back up and restore.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attrs import frozen
from zope.interface import implementer

from pexservice.stores.errors import StoreBusy
from pexservice.stores.factory_interface import (
    Backup,
    IOfflineStore,
    Restored,
    ShowProgress,
    StoreSummary,
)
from pexservice.stores.lmdb.backup import add_backup, backup, existing_backups, time_of
from pexservice.stores.lmdb.directory import directory_with_store
from pexservice.stores.lmdb.restore import restore
from pexservice.stores.lmdb.verify import verify_in_child
from pexservice.stores.lmdb.witness import read_witness


@implementer(IOfflineStore)
@frozen
class LmdbOfflineStore:
    directory: str

    def verify(self, show: ShowProgress) -> StoreSummary:
        store = directory_with_store(self.directory)
        try:
            store.lock()
        except StoreBusy as error:
            raise StoreBusy(f"{error}; make a backup, which is verified") from None
        try:
            return verify_in_child(store.real_path, partial(show, "verifying"))
        finally:
            store.unlock()

    def backup(self, target: str, keep: int | None, show: ShowProgress) -> StoreSummary:
        if keep is None:
            return backup(self.directory, target, show)
        return add_backup(self.directory, target, keep, show)

    def backups(self, directory: str) -> list[Backup]:
        witnesses = [(path, read_witness(path)) for path in existing_backups(directory)]
        return [
            Backup(time_of(path), None if witness is None else witness.revision)
            for path, witness in witnesses
        ]

    def restore(
        self, backup: str, above_revision: int | None, show: ShowProgress
    ) -> Restored:
        return restore(backup, self.directory, above_revision, show)

    def highest_revision(self) -> tuple[int, str]:
        """
        Read the witness, or else the whole store; see L{IOfflineStore.highest_revision}.
        """
        path = Path(self.directory)
        if witness := read_witness(path):
            return witness.revision, "in the witness of the replaced store"
        directory_with_store(self.directory)
        return verify_in_child(path).revision, "in the replaced store"
