"""
Backups of an LMDB store: a copy is whole, or there is none; the newest ones are kept.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pexservice.stores.errors import StoreDamaged, StoreError
from pexservice.stores.lmdb.backup import add_backup, backup, existing_backups, time_of
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE, directory_with_store
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.transaction import TRIM_SLACK
from pexservice.stores.lmdb.verify import summary
from tests.support.lmdb_pages import PagedFile
from tests.support.stores import make_store, read_without_child
from tests.unit.stores.lmdb.test_store import at, filled, mode, reader

BATCHES = 30


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide the path of a store with something in it.
    """
    read_without_child(monkeypatch)
    filled(path, BATCHES)
    return path


def names(path: Path) -> set[str]:
    """
    Return the names of the entries of C{path}.
    """
    return {file.name for file in path.iterdir()}


def test_backup_has_the_state_and_permissions_of_its_store(store: Path) -> None:
    """
    It is no larger than it must be.
    """
    (store / READER_TABLE_FILE).unlink()
    copy = backup(str(store), str(store.parent / "copy"))
    original = summary(store)
    assert (copy.revision, copy.position) == (original.revision, original.position)
    assert copy.witness == original.revision
    assert copy.store == str(store.parent / "copy")
    assert copy.size == (store.parent / "copy" / DATA_FILE).stat().st_size <= original.size
    assert mode(store.parent / "copy") == 0o700
    assert mode(store.parent / "copy" / DATA_FILE) == 0o600
    assert names(store.parent) == {"store", "copy"}
    # Nor was a reader table made, which would belong to the user that makes backups.
    assert names(store) == names(store.parent / "copy") == {DATA_FILE, WITNESS_FILE}


def test_existing_target_is_refused_and_unchanged(store: Path) -> None:
    """
    Even if it is an empty directory, or a link to nowhere.
    """
    directory, link = store.parent / "directory", store.parent / "link"
    directory.mkdir()
    link.symlink_to("nowhere")
    for place in (directory, link):
        with pytest.raises(StoreError, match=f"{place} already exists"):
            backup(str(store), str(place))
    assert link.is_symlink()
    assert names(store.parent) == {"store", "directory", "link"}


def test_target_that_cannot_be_made_is_refused_by_its_name(store: Path) -> None:
    with pytest.raises(StoreError, match=f"{store}/copy is inside the store {store}"):
        backup(str(store), str(store / "copy"))
    with pytest.raises(StoreError, match=r"--keep requires a directory, and .*/no is none"):
        add_backup(str(store), str(store.parent / "no"), 1)
    with pytest.raises(StoreError, match=r"backup /.*/no/copy: No such file"):
        backup(str(store), str(store.parent / "no" / "copy"))


def test_source_without_a_store_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"there is no store in .*/empty"):
        backup(str(tmp_path / "empty"), str(tmp_path / "copy"))
    with pytest.raises(StoreError, match=r"there is no store in .*/missing"):
        directory_with_store(str(tmp_path / "missing"))
    assert names(tmp_path) == {"empty"}


def test_copy_of_a_damaged_record_is_removed(store: Path) -> None:
    file = PagedFile(store)
    # LMDB itself does not notice a changed byte within a record.
    file.put(0, file.data.rindex(b"key-29"), b"KEY")
    with pytest.raises(StoreDamaged, match=f"the store {store} is damaged, and its copy"):
        backup(str(store), str(store.parent / "copy"))
    assert names(store.parent) == {"store"}


def test_a_store_that_was_cut_short_is_not_copied(path: Path, tmp_path: Path) -> None:
    """
    A store that was cut short is called damaged, and another process dies of reading it.
    """
    filled(path, BATCHES)
    os.truncate(path / DATA_FILE, 3 * 4096)
    with pytest.raises(StoreDamaged, match="is damaged"):
        backup(str(path), str(tmp_path / "copy"))
    assert names(tmp_path) == {"store"}


def test_a_dead_reader_is_forgotten_when_the_store_trims(path: Path) -> None:
    """
    A store forgets a dead reader when the store trims its journal.

    Otherwise no page would ever be used again.
    """
    with at(path, kept_transitions=1) as store:
        with reader(path) as pid:
            os.kill(pid, signal.SIGKILL)
        env = store.opened.databases.env
        assert env.info()["num_readers"] > 0
        for _ in range(3):
            store.step(b"n" * TRIM_SLACK)
        assert env.reader_check() == 0


#: Version 1.0.0 made such names.
OLD = ("20200101T000000Z", "20200102T000000Z", "20200103T000000Z")


@pytest.fixture
def place(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a directory with a store, and three old backups of it next to other files.
    """
    read_without_child(monkeypatch)
    make_store(path, 5)
    (tmp_path / "backups").mkdir()
    for name in OLD:
        make_store(tmp_path / "backups" / name, 1)
    (tmp_path / "backups" / "20190102T000000Z").symlink_to(OLD[0])
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
    for other in ("letters", "20190101T000000Z", "20190102T000000Z"):
        assert os.path.lexists(backups / other)
    assert time_of(Path(OLD[0])) == 1577836800


def test_only_an_old_incomplete_copy_of_a_killed_process_is_removed(place: Path) -> None:
    backups, other = place / "backups", ".letters.partial-0123456789abcdef"
    old, new = (f".{year}0101T000000Z.partial-0123456789abcdef" for year in (2020, 9999))
    for name in (old, new, other):
        (backups / name).mkdir()
    add_backup(str(place / "store"), str(backups), 9)
    assert {name for name in names(backups) if name[0] == "."} == {new, other}


def test_failed_backup_removes_no_old_one(place: Path) -> None:
    """
    A backup that fails removes no old one, since the old ones are all there is to restore.
    """
    with pytest.raises(StoreError):
        add_backup(str(place / "none"), str(place / "backups"), 1)
    assert [backup.name for backup in existing_backups(str(place / "backups"))] == [*OLD]
