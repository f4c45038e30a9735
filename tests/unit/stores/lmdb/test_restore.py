"""
The restoration of a backup in the place of a store.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from pexservice.stores.errors import StoreBusy, StoreDamaged, StoreError
from pexservice.stores.lmdb import restore as module
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.directory import (
    DATA_FILE,
    STAGING_DIRECTORY,
    WITNESS_FILE,
    Directory,
)
from pexservice.stores.lmdb.restore import restore
from pexservice.stores.lmdb.verify import summary, verify
from tests.support.stores import make_store, read_without_child


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Provide what C{place} is a copy of.
    """
    path = tmp_path_factory.mktemp("original")
    make_store(path / "older", 7)
    backup(str(path / "older"), str(path / "backup"))
    make_store(path / "store", 9)
    return path


@pytest.fixture
def place(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a directory with a store at revision 9 and a backup of another at revision 7.
    """
    read_without_child(monkeypatch)
    return shutil.copytree(original, tmp_path, dirs_exist_ok=True)


def test_restored_store_equals_the_backup_and_the_old_one_is_kept(place: Path) -> None:
    done = restore(str(place / "backup"), str(place / "store"))
    assert (done.summary.revision, done.summary.position, done.steps) == (7, 7, 0)
    assert done.kept is not None
    assert done.kept.name.startswith("store.before-")
    for name, revision in (("store", 7), (done.kept.name, 9), ("backup", 7)):
        verify(place / name)
        assert summary(place / name).revision == revision
    assert not [file for file in place.iterdir() if file.name.startswith(".")]


def test_restored_store_continues_beyond_the_seen_revisions(place: Path) -> None:
    """
    Steps back and forth raise the revision.  The position stays.
    """
    done = restore(str(place / "backup"), str(place / "store"), 3_000_000)
    assert (done.summary.revision, done.summary.position) == (3_000_001, 7)
    assert done.steps == 3_000_001 - 7
    verify(place / "store")


@pytest.mark.parametrize(("beyond", "steps"), [(None, 0), (6, 0), (7, 2), (8, 2), (9, 4)])
def test_number_of_steps_is_even_and_no_larger_than_necessary(
    beyond: int | None, steps: int
) -> None:
    assert module._count_steps(7, beyond) == steps


def test_implausible_revision_is_refused() -> None:
    with pytest.raises(StoreError, match="is it the right backup"):
        module._count_steps(7, 10**12)


def test_restore_of_a_store_in_use_is_refused(place: Path) -> None:
    service = Directory(str(place / "store"))
    service.lock()
    with pytest.raises(StoreBusy, match="stop the service first"):
        restore(str(place / "backup"), str(place / "store"))
    service.unlock()
    assert_nothing_happened(place)


def test_damaged_backup_is_refused_before_anything_is_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The process that reads it dies.
    """
    monkeypatch.undo()
    file = place / "backup" / DATA_FILE
    file.write_bytes(file.read_bytes()[:8192] + b"\xff" * 8192)
    with pytest.raises(StoreDamaged):
        restore(str(place / "backup"), str(place / "store"))
    assert_nothing_happened(place)


def test_wrong_backup_is_refused_and_nothing_changes(place: Path) -> None:
    with pytest.raises(StoreError, match="there is no store in"):
        restore(str(place / "none"), str(place / "new"))
    for inside in ("store", "store/in"):
        with pytest.raises(StoreError, match="is the store itself, or contains it"):
            restore(str(place / "store"), str(place / inside))
    assert_nothing_happened(place)


@pytest.mark.parametrize(("number", "hints"), [(errno.EACCES, 1), (errno.ENOSPC, 0)])
def test_failed_restore_says_why(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int, hints: int
) -> None:
    """
    It names permissions only where they are missing.
    """
    fails = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr(module, "copy_store", fails)
    with pytest.raises(StoreError) as caught:
        restore(str(place / "backup"), str(place / "store"))
    assert f"cannot be replaced: {os.strerror(number)}" in str(caught.value)
    assert str(caught.value).count("has to be writable") == hints
    assert summary(place / "store").revision == 9


@pytest.mark.parametrize("directory_exists", [False, True])
def test_backup_becomes_the_store_where_there_was_a_copy_of_a_killed_restore(
    place: Path, *, directory_exists: bool
) -> None:
    """
    A restore that was killed cannot remove its copy, so the next one removes the copy.
    """
    left, other = place / ".new.restored-0123456789abcdef", place / ".new.restored-holidays"
    left.mkdir()
    (left / DATA_FILE).touch()
    other.mkdir()
    if directory_exists:
        (place / "new").mkdir()
    done = restore(str(place / "backup"), str(place / "new"))
    assert (done.summary.revision, done.kept) == (7, None)
    verify(place / "new")
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize("call", ["snapshot.run_child", "restore.chown_like"])
def test_interrupted_restore_leaves_the_old_store_and_no_copy(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """
    If the process is killed, the copy has a name that the next restore removes.
    """

    def interrupted(*_: object, **__: object) -> None:
        (copy,) = place.glob(".*")
        assert re.fullmatch(r"\.store\.restored-[0-9a-f]{16}", copy.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pexservice.stores.lmdb.{call}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore(str(place / "backup"), str(place / "store"))
    assert_nothing_happened(place)


def test_directory_that_holds_something_else_is_refused_and_untouched(place: Path) -> None:
    (place / "photos").mkdir()
    (place / "photos" / "one").write_text("precious")
    with pytest.raises(StoreError, match="holds something else"):
        restore(str(place / "backup"), str(place / "photos"))
    assert (place / "photos" / "one").read_text() == "precious"
    shutil.rmtree(place / "photos")
    assert_nothing_happened(place)


def test_remains_of_a_store_are_kept(place: Path) -> None:
    remains = place / "remains"
    remains.mkdir()
    for name in (WITNESS_FILE, STAGING_DIRECTORY):
        (remains / name).write_text("precious")
    done = restore(str(place / "backup"), str(remains))
    assert done.summary.revision == 7
    assert done.kept is not None
    for name in (WITNESS_FILE, STAGING_DIRECTORY):
        assert (done.kept / name).read_text() == "precious"


def assert_nothing_happened(place: Path) -> None:
    """
    Assert that the store is as it was, and that nothing else is next to it.
    """
    assert summary(place / "store").revision == 9
    assert {file.name for file in place.iterdir()} == {"older", "backup", "store"}
