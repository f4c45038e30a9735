"""
A store of an older format becomes one of the newest, or stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from pexservice.stores.interface import StoreIncompatible
from pexservice.stores.lmdb import migrate, records
from pexservice.stores.lmdb.directory import DATA, NURSERY
from pexservice.stores.lmdb.verify import DATABASES, verify, verify_in_child
from tests.support.fakes import now
from tests.unit.stores.lmdb.test_store import at, filled


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a store of format 0, which differs from the newest format in that number alone.
    """
    path = tmp_path / "store"
    revision, position = filled(path, 10)
    with monkeypatch.context() as of_old, lmdb.open(str(path), max_dbs=3) as env:
        of_old.setattr(records, "FORMAT_VERSION", 0)
        with env.begin(write=True, db=env.open_db(b"cursor")) as txn:
            txn.put(records.CURSOR_KEY, records.write_cursor(revision, position))
    return path


def rewrite(old: Path, new: Path) -> None:
    """
    Write the store C{old}, of format 0, to C{new} in the newest format.
    """
    with lmdb.open(str(old), max_dbs=3, readonly=True) as env:
        env.copy(str(new), compact=True)
    with lmdb.open(str(new), max_dbs=3) as env:
        cursor = env.open_db(DATABASES[0])
        with env.begin(write=True, db=cursor) as txn:
            txn.put(records.CURSOR_KEY, records.write_cursor(40, 20))


@pytest.mark.parametrize("verification", [None, verify, verify_in_child])
def test_no_way(old: Path, verification: None) -> None:
    """
    A format that nothing reads is refused, and the store stays as it is.
    """
    before = (old / DATA).read_bytes()
    with pytest.raises(StoreIncompatible, match="version 0, this program reads 1"):
        now(at(old, verify=verification).open())
    assert (old / DATA).read_bytes() == before
    assert not (old / NURSERY).exists()


@pytest.mark.parametrize("verification", [None, verify, verify_in_child])
def test_a_way(old: Path, verification: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A store of an older format is rewritten when it is opened.

    A standby that takes over rewrites the store too.  Then the store is one of the newest
    format.
    """
    monkeypatch.setitem(migrate.REWRITES, 0, rewrite)
    store = at(old, verify=verification)
    assert now(store.open()) == (40, 20)
    now(store.close())
    verify(old)
    assert not (old / NURSERY).exists()


def test_a_way_from_another(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The rewriting of one format is used for no other format, nor for another LMDB's file.
    """
    monkeypatch.setitem(migrate.REWRITES, 7, rewrite)
    with pytest.raises(StoreIncompatible, match="version 0"):
        now(at(old).open())
    data = (old / DATA).read_bytes()
    other = b"\xde\xc0\xef\xbe\x03\0\0\0"
    (old / DATA).write_bytes(data.replace(other[:4] + b"\1\0\0\0", other))
    with pytest.raises(StoreIncompatible, match="data version 3"):
        now(at(old).open())
