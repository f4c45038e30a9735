"""
The witness of the newest commit: it proves damage, and its own failures do no harm.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from twisted.logger import capturedLogs

from pexservice.stores.errors import StoreDamaged
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.backup import backup
from pexservice.stores.lmdb.directory import DATA_FILE, WITNESS_FILE
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.records import WitnessRecord
from pexservice.stores.lmdb.verify import summary, verify
from pexservice.stores.lmdb.witness import Witness, read_witness
from tests.support.fakes import now
from tests.support.lmdb_pages import TRANSACTION, PagedFile
from tests.support.stores import read_without_child
from tests.unit.stores.lmdb.test_store import at, filled, mode


def begin_with_the_older_state(store: Path) -> None:
    """
    Make LMDB begin with the state before the newest transaction.

    One bit of that transaction's number changes, and nothing in the file shows the
    change.
    """
    file = PagedFile(store)
    meta = file.newest_meta()
    transaction = file.number(meta, TRANSACTION, "Q")
    assert transaction & 2
    file.put(meta, TRANSACTION, (transaction - 2).to_bytes(8, "little"))


@pytest.fixture
def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    Provide a store at revision 12, with a transaction's number that can lose a bit.
    """
    read_without_child(monkeypatch)
    assert filled(path, 3) == (12, 6)
    return path


def reopened(path: Path) -> tuple[int, int]:
    """
    Open a store, close it again, and return its state.
    """
    with at(path, verify=None) as store:
        return store.state


def test_each_commit_writes_the_witness_before_its_response(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is flushed when the store is created and closed.  Only the creation is logged.
    """
    store = at(path)
    with capturedLogs() as events:
        now(store.open())
    assert [event["log_format"][:19] for event in events] == ["created a new store"]
    assert read_witness(path) == WitnessRecord(0)
    fsync, pwrite = Mock(wraps=os.fsync), Mock(wraps=os.pwrite)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "pwrite", pwrite)
    for count in (1, 2):
        store.step(b"n")
        assert read_witness(path) == WitnessRecord(count)
    assert (pwrite.call_count, fsync.call_count) == (2, 0)
    now(store.close())
    assert (pwrite.call_count, fsync.call_count) == (2, 1)
    assert mode(path / WITNESS_FILE) == 0o600
    # Within one sector of any disk.
    assert (path / WITNESS_FILE).stat().st_size == records.WITNESS_SIZE < 512


def test_commit_in_progress_does_not_undo_a_record_of_damage(store: Path) -> None:
    """
    A read finds damage while another thread commits, and then writes its revision.
    """
    witness = Witness(store, 12, was_verified=False)
    witness.write(WitnessRecord(12, sound=False))
    witness.write(WitnessRecord(13))
    assert read_witness(store) == WitnessRecord(12, sound=False)
    witness.close()


def test_store_older_than_its_witness_is_damaged(store: Path) -> None:
    """
    With and without verification, and nothing is changed.

    Without the witness the store is opened.
    """
    begin_with_the_older_state(store)
    before = (store / DATA_FILE).read_bytes(), (store / WITNESS_FILE).read_bytes()
    for check in (verify, None):
        with pytest.raises(StoreDamaged, match=r"at revision 8, but .* has revision 12"):
            now(at(store, verify=check).open())
    assert ((store / DATA_FILE).read_bytes(), (store / WITNESS_FILE).read_bytes()) == before
    (store / WITNESS_FILE).unlink()
    verify(store)
    assert reopened(store) == (8, 4)
    assert read_witness(store) == WitnessRecord(8)


def test_older_witness_is_renewed_without_a_log_line(store: Path) -> None:
    """
    A power cut leaves such a witness.
    """
    (store / WITNESS_FILE).write_bytes(records.encode_witness(WitnessRecord(5)))
    with capturedLogs() as events:
        verify(store)
        assert reopened(store) == (12, 6)
    assert events == []
    assert read_witness(store) == WitnessRecord(12)


TORN = {
    "missing": None,
    "empty": b"",
    "short": records.encode_witness(WitnessRecord(99))[:-1],
    "long": records.encode_witness(WitnessRecord(99)) + b"\0",
    "zeros": bytes(records.WITNESS_SIZE),
    "half of another": records.encode_witness(WitnessRecord(3))[:10]
    + records.encode_witness(WitnessRecord(99))[10:],
    "of another time": records.seal(b"newest", b"\0\2" + bytes(9)),
}


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
def test_missing_or_torn_witness_is_logged_once_and_renewed(
    store: Path, torn: bytes | None
) -> None:
    if torn is None:
        (store / WITNESS_FILE).unlink()
    else:
        (store / WITNESS_FILE).write_bytes(torn)
    verify(store)
    assert summary(store).witness is None
    with capturedLogs() as events:
        assert reopened(store) == (12, 6)
        assert reopened(store) == (12, 6)
    assert [event["store"] for event in events] == [store]
    assert "no witness" in str(events[0]["log_format"])
    assert read_witness(store) == WitnessRecord(12)


def test_witness_alone_shows_that_there_was_a_store(store: Path) -> None:
    (store / DATA_FILE).unlink()
    (store / READER_TABLE_FILE).unlink()
    with pytest.raises(StoreDamaged, match=f"lost its file {DATA_FILE}"):
        now(at(store).open())


def test_failed_witness_does_not_undo_a_commit(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One log line reports it.
    """
    failing = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    with at(store) as served:
        monkeypatch.setattr(os, "pwrite", failing)
        with capturedLogs() as events:
            for _ in range(2):
                served.step(b"n")
    assert [event["reason"] for event in events] == ["Input/output error"]
    monkeypatch.undo()
    assert reopened(store) == served.state


def test_store_continues_when_no_witness_can_be_written(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / WITNESS_FILE).unlink()
    failing = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(os, "fsync", failing)
    with capturedLogs() as events:
        assert reopened(store) == (12, 6)
    assert [event.get("reason") for event in events] == [None, "No space left on device"]
    (store / WITNESS_FILE).write_bytes(records.encode_witness(WitnessRecord(12)))
    witness = Witness(store, 12, was_verified=True)
    with capturedLogs() as events:
        witness.close()
        witness.close()
    assert len(events) == 1


def test_backup_has_a_witness_even_if_the_store_has_none(
    store: Path, tmp_path: Path
) -> None:
    (store / WITNESS_FILE).unlink()
    copy = backup(str(store), str(tmp_path / "copy"))
    assert (copy.revision, copy.witness) == (12, 12)
    assert mode(tmp_path / "copy" / WITNESS_FILE) == 0o600
    assert reopened(tmp_path / "copy") == (12, 6)


def test_store_that_lost_steps_is_not_copied(store: Path, tmp_path: Path) -> None:
    begin_with_the_older_state(store)
    with pytest.raises(StoreDamaged, match=f"{store} is damaged.* has revision 12"):
        backup(str(store), str(tmp_path / "copy"))
    assert {file.name for file in tmp_path.iterdir()} == {"store"}
