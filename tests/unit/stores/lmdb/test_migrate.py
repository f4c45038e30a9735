"""
A store of format 1 is rewritten when it is opened, or stays as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from pexservice.stores.errors import StoreDamaged, StoreError, StoreIncompatible
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.directory import DATA_FILE, STAGING_DIRECTORY
from pexservice.stores.lmdb.migrate import rewrite
from pexservice.stores.lmdb.records import seal
from pexservice.stores.lmdb.restore import restore
from pexservice.stores.lmdb.transaction import read_format_at
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.remembered_keys import unpack_use
from tests.support.fakes import ABOVE_ALL, now
from tests.support.format_1 import turn_back
from tests.support.stores import read_without_child
from tests.unit.stores.lmdb.test_store import at, filled, put

BATCHES = 300


@pytest.fixture
def keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """
    Make the store one of format 1, and provide its keys with their packed uses.
    """
    read_without_child(monkeypatch)
    filled(path, BATCHES)
    return turn_back(path)


@contextmanager
def staying(path: Path) -> Iterator[None]:
    """
    Check that the store in C{path} is not changed, and that no new one is left there.
    """
    before = (path / DATA_FILE).read_bytes()
    yield
    assert (path / DATA_FILE).read_bytes() == before
    assert not (path / STAGING_DIRECTORY).exists()


@pytest.mark.parametrize("verification", [None, verify])
def test_store_of_format_1_is_rewritten_with_its_cursor_history_and_keys(
    path: Path, keys: dict[bytes, bytes], verification: object
) -> None:
    """
    A standby that takes over without verifying the store rewrites it too.
    """
    with at(path, verify=verification) as store:
        assert store.state == (4 * BATCHES, 2 * BATCHES)
        assert len(store.remembered_keys) == len(keys) == BATCHES
        for name, use in keys.items():
            assert store.remembered_keys.find(name) == unpack_use(use)
        rows = now(store.history(ABOVE_ALL, 10_000))
        assert [row.revision for row in rows] == [*range(4 * BATCHES, 0, -1)]
        # More keys follow those that were rewritten.
        store.step(b"nn", b"more")
    verify(path)
    assert read_format_at(path) == records.FORMAT_VERSION
    with at(path) as again:
        assert again.remembered_keys.find(b"more") is not None
    assert not (path / STAGING_DIRECTORY).exists()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    "failing",
    [
        "pathlib.Path.mkdir",
        "pathlib.Path.rename",
        "pexservice.stores.lmdb.transaction.open_for_reading",
    ],
)
def test_rewriting_that_fails_leaves_the_store_as_it_was(
    path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A store whose format cannot be read is not opened, because it may have format 1.
    """
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(failing, Mock(side_effect=error))
    with staying(path), pytest.raises(StoreError, match="No space left"):
        now(at(path, verify=None).open())


@pytest.mark.usefixtures("keys")
def test_interrupted_rewriting_starts_again(path: Path) -> None:
    (path / STAGING_DIRECTORY).mkdir()
    rewrite(path, path / STAGING_DIRECTORY, lambda _: None)
    assert read_format_at(path) == 1
    with at(path):
        pass
    assert read_format_at(path) == 2
    assert not (path / STAGING_DIRECTORY).exists()


def cursor_of(version: int) -> tuple[bytes, bytes, bytes]:
    """
    Return the record of a cursor of another version, with its database.
    """
    payload = struct.pack(">HQQ", version, 4 * BATCHES, 2 * BATCHES)
    return b"cursor", records.CURSOR_KEY, seal(records.CURSOR_KEY, payload)


def use_of(transition: bytes, revision: int, position: int) -> tuple[bytes, bytes, bytes]:
    """
    Return the record of another use of a key, with its database.
    """
    key = b"kkey-0"
    return b"keys", key, seal(key, struct.pack(">cQQ", transition, revision, position))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("record", "verification", "error", "message"),
    [
        (cursor_of(0), None, StoreIncompatible, "version 0, this program reads 1"),
        (cursor_of(3), verify, StoreIncompatible, "version 3, this program reads 1"),
        ((b"keys", b"r" + (1).to_bytes(8), None), verify, StoreDamaged, "is damaged"),
        ((b"keys", b"kkey-0", None), verify, StoreDamaged, "is damaged"),
        ((b"keys", b"kkey-0", b"torn"), verify, StoreDamaged, "is damaged"),
        # The function that rewrites the store finds the damage.
        ((b"keys", b"kkey-0", b"torn"), None, StoreDamaged, "is damaged"),
        # It is newer than the cursor.
        (use_of(b"n", 5000, 1), verify, StoreDamaged, "is damaged"),
        (use_of(b"x", 1, 1), verify, StoreDamaged, "is damaged"),
        (use_of(b"n", 2, 2), verify, StoreDamaged, "is damaged"),
    ],
)
def test_store_with_a_wrong_record_is_refused_and_stays_as_it_is(
    path: Path,
    record: tuple[bytes, bytes, bytes | None],
    verification: object,
    error: type[StoreError],
    message: str,
) -> None:
    put(path, *record)
    with staying(path), pytest.raises(error, match=message):
        now(at(path, verify=verification).open())


def test_backup_keeps_format_1_and_restore_rewrites_it(
    path: Path, tmp_path: Path, keys: dict[bytes, bytes]
) -> None:
    """
    So version 1.0.0 can use the backup as well.
    """
    copy, place = tmp_path / "backup", tmp_path / "restored"
    assert backup(str(path), str(copy)).revision == 4 * BATCHES
    assert read_format_at(copy) == 1
    restored = restore(str(copy), str(place), above_revision=4 * BATCHES + 9)
    assert restored.summary.revision == 4 * BATCHES + 10
    assert read_format_at(place) == 2
    with at(place) as store:
        assert len(store.remembered_keys) == len(keys)


@pytest.mark.usefixtures("keys")
def test_error_of_lmdb_during_the_rewriting_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / STAGING_DIRECTORY).mkdir()
    monkeypatch.setattr(
        "pexservice.stores.lmdb.migrate.map_size_to_grow", lambda _: 1 << 16
    )
    with pytest.raises(StoreError, match=r"cannot be rewritten in format 2: .*stays"):
        rewrite(path, path / STAGING_DIRECTORY, lambda _: None)
