"""
The rotation of backups, of which the newest are kept.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pexservice.stores.errors import StoreError
from pexservice.stores.lmdb.backup import add_backup, existing_backups, time_of
from pexservice.stores.lmdb.verify import summary
from tests.support.stores import make_store

OLD = ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """
    Provide a directory with a store, and three old backups of it next to other files.
    """
    make_store(tmp_path / "store", 5)
    (tmp_path / "backups").mkdir()
    for name in OLD:
        make_store(tmp_path / "backups" / name, 1)
    (tmp_path / "backups" / "20190101T000000Z").mkdir()
    (tmp_path / "backups" / "letters").mkdir()
    return tmp_path


def test_newest_backups_are_kept_also_if_two_are_of_the_same_second(place: Path) -> None:
    """
    The oldest backups are removed, and entries that are no backup stay.
    """
    backups = place / "backups"
    first, second = (
        Path(add_backup(str(place / "store"), str(backups), keep).store) for keep in (4, 3)
    )
    kept = existing_backups(str(backups))
    assert [backup.name for backup in kept] == [OLD[-1], first.name, second.name]
    assert time_of(second) > time_of(first) > time_of(Path(OLD[-1]))
    assert summary(second).revision == 5
    assert (backups / "letters").exists()
    assert (backups / "20190101T000000Z").exists()
    assert time_of(Path(OLD[0])) == 1577836800


def test_failed_backup_removes_no_old_one(place: Path) -> None:
    """
    A backup that fails removes no old one, since the old ones are all there is to restore.
    """
    with pytest.raises(StoreError):
        add_backup(str(place / "none"), str(place / "backups"), 1)
    assert [backup.name for backup in existing_backups(str(place / "backups"))] == [*OLD]
