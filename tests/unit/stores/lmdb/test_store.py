"""
The promises of the LMDB store beyond the contract: files, faults, sizes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Self
from unittest.mock import Mock

import lmdb
import pytest
from twisted.internet.task import Clock

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from pexservice.stores.lmdb import records, reserve
from pexservice.stores.lmdb.databases import DATABASES, Databases
from pexservice.stores.lmdb.directory import (
    DATA_FILE,
    STAGING_DIRECTORY,
    WITNESS_FILE,
    Directory,
)
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.opened_store import PATH_CHECK_INTERVAL_SECONDS, OpenedStore
from pexservice.stores.lmdb.reserve import MAX_DISK_FRACTION, RESERVE_BYTES, Reserve
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.lmdb.transaction import MAX_TRIMMED_ROWS, TRIM_SLACK
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.remembered_keys import pack_use
from pexservice.stores.verification import Verification
from tests.support.fakes import ABOVE_ALL, inline, now
from tests.support.stores import copied
from tests.unit.stores.test_contract import batch


class StoreUnderTest(LmdbStore):
    """
    A store that a C{with} block opens and closes.

    @ivar state: the cursor.
    """

    state = Cursor(0, 0)

    def __enter__(self) -> Self:
        self.state = now(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        now(self.close())

    @property
    def opened(self) -> OpenedStore:
        return self._get_opened()

    def step(self, transitions: bytes, *keys: bytes) -> None:
        """
        Commit C{transitions} in one batch, the first of them with C{keys}.
        """
        taken = batch(self.state, transitions, *keys)
        now(self.commit(taken))
        self.state = taken.after


class NotDue(Verification):
    is_due = False


def at(
    path: Path, *, map_size: int | None = None, verify: Any = verify, **options: Any
) -> StoreUnderTest:
    """
    Return a store in C{path}.  It is not verified if C{verify} is C{None}.
    """
    verification = NotDue() if verify is None else Verification()
    store = StoreUnderTest(
        Directory(str(path)), inline(), verify=verify, verification=verification, **options
    )
    if map_size is not None:
        store._map_size = map_size
    return store


@copied
def filled(path: Path, count: int) -> tuple[int, int]:
    """
    Make a store of C{count} batches in C{path}.

    @return: the state of the store.
    """
    with at(path) as store:
        for number in range(count):
            store.step(b"nnnp", b"key-%d" % number)
    return store.state


#: A program that reads one state of a store as long as its standard input is open.
READER = """
import lmdb, sys
txn = lmdb.open(sys.argv[1], readonly=True, create=False).begin()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str, path: Path) -> Iterator[int]:
    """
    Run a program with the argument C{path}, which prints a line when it is ready.

    @return: the id of its process.
    """
    with Popen(
        [sys.executable, "-c", program, str(path)], stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


def reader(path: Path) -> AbstractContextManager[int]:
    """
    Run a process that reads the state that the store in C{path} has now.
    """
    return running(READER, path)


def mode(path: Path) -> int:
    """
    Return the permissions of C{path}.
    """
    return stat.S_IMODE(path.stat().st_mode)


def test_directory_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    """
    Also if the directory was open to all before.
    """
    os.umask(0o022)
    created, given = tmp_path / "made", tmp_path / "given"
    given.mkdir(0o755)
    for path in (created, given):
        with at(path):
            assert (mode(path), mode(path / DATA_FILE)) == (0o700, 0o600)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        # So a mistyped path creates no directories.
        ("missing/store", "No such file or directory"),
        ("thesis.tex", "Not a directory"),
        ("", r"something else \(thesis.tex\)"),
    ],
)
def test_path_of_something_else_is_refused_and_nothing_changes(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=message):
        now(at(tmp_path / name).open())
    assert [*tmp_path.rglob("*")] == [tmp_path / "thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("leftover", [b"", b"half a page", bytes(65536)])
def test_interrupted_creation_is_cleaned_up_and_repeated(
    tmp_path: Path, leftover: bytes
) -> None:
    """
    A power cut interrupted it.
    """
    (tmp_path / STAGING_DIRECTORY).mkdir()
    (tmp_path / STAGING_DIRECTORY / DATA_FILE).write_bytes(leftover)
    (tmp_path / "lost+found").mkdir()
    with at(tmp_path) as store:
        assert store.state == (0, 0)
    assert {file.name for file in tmp_path.iterdir()} == {
        *(DATA_FILE, READER_TABLE_FILE, WITNESS_FILE),
        "lost+found",
    }


def test_store_that_cannot_be_created_is_refused_in_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It can be created later.
    """
    failing = Mock(side_effect=lmdb.DiskError("No space left on device"))
    monkeypatch.setattr("pexservice.stores.lmdb.databases.lmdb.open", failing)
    with pytest.raises(StoreError, match=f"{path} cannot be made: No space"):
        now(at(path).open())
    monkeypatch.undo()
    with at(path) as store:
        assert store.state == (0, 0)


def put(path: Path, database: bytes, key: bytes, value: bytes | None) -> None:
    """
    Write one record behind the store's back, or remove it if C{value} is C{None}.
    """
    with lmdb.open(str(path), max_dbs=3) as env:
        opened = env.open_db(database)
        with env.begin(write=True, db=opened) as txn:
            if value is None:
                assert txn.delete(key)
            else:
                txn.put(key, value)


def key_row(first: int, revision: int, name: bytes) -> tuple[bytes, bytes]:
    """
    Return a row with one key, as it is stored.
    """
    use = pack_use(b"n", revision, 1)
    return records.encode_key_row(records.KeyRow(first, use, name))


ROW = records.encode_first_item(5)


def cursor(revision: int, position: int) -> bytes:
    """
    Return the record of a cursor, in a store with 500 keys.
    """
    return records.encode_cursor(Cursor(revision, position), 501)


CONTRADICTIONS = {
    "cursor missing": (b"cursor", records.CURSOR_KEY, None),
    "cursor torn": (b"cursor", records.CURSOR_KEY, cursor(2000, 1000)[:-1]),
    "cursor elsewhere": (b"cursor", records.CURSOR_KEY, cursor(2000, 9)),
    "cursor behind": (b"cursor", records.CURSOR_KEY, cursor(1996, 998)),
    "row missing": (b"journal", ROW, None),
    "row torn": (b"journal", ROW, b"torn"),
    "row of others": (b"journal", *records.encode_journal_row(batch((4, 2), b"nn"))),
    "row after the end": (b"journal", *records.encode_journal_row(batch((2000, 9), b"n"))),
    "keys missing": (b"keys", records.encode_first_item(65), None),
    "newest keys missing": (b"keys", records.encode_first_item(449), None),
    "newest keys of an earlier commit": (b"keys", *key_row(449, 1800, b"key-448")),
    "keys torn": (b"keys", records.encode_first_item(65), b"torn"),
    "keys of others": (b"keys", *key_row(65, 1, b"key-64")),
    "keys after the end": (b"keys", *key_row(501, 1999, b"key")),
}


@pytest.mark.parametrize("record", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradicting_records_are_damage_although_lmdb_accepts_them(
    path: Path, record: tuple[bytes, bytes, bytes | None]
) -> None:
    assert filled(path, 500) == (2000, 1000)
    put(path, *record)
    with pytest.raises(StoreDamaged, match="is damaged"):
        now(at(path).open())


@pytest.mark.parametrize(
    ("contradiction", "reason"),
    [
        ("cursor elsewhere", "cursor is at 2000 and 9"),
        ("newest keys missing", "keys end at ordinal 448, the cursor is at ordinal 500"),
        ("newest keys of an earlier commit", "keys end at ordinal 449, the cursor is"),
    ],
)
def test_a_quick_look_finds_the_cursor_wrong(
    path: Path, contradiction: str, reason: str
) -> None:
    """
    Opening a store without reading it whole still compares cursor, journal and keys.
    """
    filled(path, 500)
    put(path, *CONTRADICTIONS[contradiction])
    with pytest.raises(StoreDamaged, match=reason):
        now(at(path, verify=lambda *_: None).open())


def test_reader_table_that_cannot_be_locked_is_no_damage(path: Path) -> None:
    """
    The store may be opened later.
    """
    state = filled(path, 1)
    (path / READER_TABLE_FILE).unlink()
    with (
        running(HOLDS_A_LOCK, path / READER_TABLE_FILE),
        pytest.raises(StoreError, match="cannot be locked") as caught,
    ):
        now(at(path).open())
    assert not isinstance(caught.value, StoreDamaged)
    with at(path) as store:
        assert store.state == state


#: A program that locks LMDB's reader table, as LMDB does, and puts nothing in it.
HOLDS_A_LOCK = """
import fcntl, sys
with open(sys.argv[1], "w+b") as file:
    fcntl.lockf(file, fcntl.LOCK_SH, 1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_map_grows_within_the_share_of_the_disk(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store continues, also when it is opened again.
    """
    with at(path, map_size=128 * 1024) as store:
        for _ in range(3):
            store.step(b"n" * 200_000)
        space = store.space()
        assert space is not None
        assert space.used == (path / DATA_FILE).stat().st_size > 128 * 1024
        assert 0 < space.free <= space.size
        assert space.limit == pytest.approx(
            (space.used + space.free) * MAX_DISK_FRACTION, rel=0.1
        )
    monkeypatch.setattr(reserve, "MAX_DISK_FRACTION", 0)
    with at(path, map_size=128 * 1024) as again:
        assert again.state == store.state
        again.step(b"n")
        path.rename(tmp_path / "elsewhere")
        assert again.space() is not None
    assert again.space() is None


def test_batch_that_does_not_fit_never_happened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store takes a batch that needs less space.
    """
    monkeypatch.setattr(reserve, "MAX_DISK_FRACTION", 0)
    with at(path, map_size=128 * 1024) as store:
        with pytest.raises(Refusal, match="is full"):
            store.step(b"n" * 200_000)
        store.step(b"nn", b"key")
    with at(path) as again:
        assert [row.revision for row in now(again.history(ABOVE_ALL, 10))] == [2, 1]


def test_a_steady_store_needs_no_reserve(path: Path) -> None:
    """
    The file stops growing once the store has all the transitions and keys that it keeps.
    """
    sizes = []
    with at(path, kept_transitions=300, kept_keys=300) as store:
        for _ in range(3):
            for _ in range(3 * TRIM_SLACK):
                store.step(b"n", b"key-%d" % store.state.revision)
            sizes.append((path / DATA_FILE).stat().st_size)
    assert sizes[2] == sizes[1]
    verify(path)


def test_store_reserves_disk_space_beyond_its_used_pages(path: Path) -> None:
    """
    The reserve is kept also after the store has grown.

    The file is as long as ever, and opening the store again takes no more space.
    """

    def taken_beyond() -> int:
        file_status = (path / DATA_FILE).stat()
        return file_status.st_blocks * 512 - file_status.st_size

    with at(path, kept_transitions=TRIM_SLACK) as store:
        assert taken_beyond() >= RESERVE_BYTES
        store.step(b"n" * (2 * RESERVE_BYTES))
        assert taken_beyond() >= RESERVE_BYTES
        size = (path / DATA_FILE).stat().st_size
    for _ in range(3):
        with at(path):
            pass
    assert taken_beyond() < 2 * RESERVE_BYTES
    assert (path / DATA_FILE).stat().st_size == size
    verify(path)


def counted(path: Path) -> dict[bytes, int]:
    """
    Return how many records each database of the store in C{path} has.
    """
    with lmdb.open(str(path), max_dbs=3) as env, env.begin() as txn:
        return {name: txn.stat(env.open_db(name, txn))["entries"] for name in DATABASES}


def test_shorter_journal_is_reached_in_bounded_commits(path: Path) -> None:
    """
    The visible history is short at once.
    """
    filled(path, 3 * MAX_TRIMMED_ROWS)
    rows = 3 * MAX_TRIMMED_ROWS
    while rows > TRIM_SLACK:
        with at(path, kept_transitions=4, kept_keys=4) as store:
            store.step(b"n")
            assert len(now(store.history(ABOVE_ALL, 1000))) == 4
        verify(path)
        before, rows = rows, counted(path)[b"journal"]
        assert before - MAX_TRIMMED_ROWS <= rows < before
    assert counted(path)[b"keys"] <= 2


def test_commit_removes_fewer_long_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Rows with many transitions are many pages.
    """
    monkeypatch.setattr("pexservice.stores.lmdb.transaction.MAX_EXTRA_TRIMMED_ITEMS", 10)
    filled(path, TRIM_SLACK)
    with at(path, kept_transitions=4) as store:
        store.step(b"n")
    # Three rows of four transitions reach the limit of ten, and one row is new.
    assert counted(path)[b"journal"] == TRIM_SLACK - 3 + 1
    verify(path)


def test_no_more_of_a_row_is_replayed_than_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Reading the newest of a batch of 10,000 transitions replays one transition.
    """
    replay = Mock(wraps=position_after)
    with at(path) as store:
        store.step(b"n" * 10_000)
        monkeypatch.setattr(records, "position_after", replay)
        assert [row.revision for row in now(store.history(ABOVE_ALL, 1))] == [10_000]
    replay.assert_called_once_with(9_999, Transition.NEXT)


@pytest.mark.parametrize("moved", ["store", f"store/{DATA_FILE}"])
@pytest.mark.parametrize(
    ("is_replaced", "message"), [(False, "{} was moved away"), (True, "in the place of {}")]
)
def test_moved_or_replaced_store_can_be_read_and_takes_nothing_until_it_is_back(
    tmp_path: Path, moved: str, message: str, *, is_replaced: bool
) -> None:
    path, away, clock = tmp_path / moved, tmp_path / "away", Clock()
    filled(tmp_path / "other", 500)
    with at(tmp_path / "store", monotonic=clock.seconds) as store:
        store.step(b"n")
        path.rename(away)
        if is_replaced:
            (tmp_path / moved.replace("store", "other")).rename(path)
        clock.advance(PATH_CHECK_INTERVAL_SECONDS)
        for _ in range(2):
            with pytest.raises(Refusal, match=message.format(tmp_path / "store")):
                store.step(b"n")
        assert store.commit_refusal() is not None
        assert len(now(store.history(ABOVE_ALL, 10))) == 1
        if is_replaced:
            path.rename(tmp_path / "wrong")
        away.rename(path)
        store.step(b"n")


def test_store_replaced_during_its_verification_is_refused(
    path: Path, tmp_path: Path
) -> None:
    filled(path, 500)
    filled(tmp_path / "other", 500)

    def swap(*_: object) -> None:
        path.rename(tmp_path / "away")
        (tmp_path / "other").rename(path)

    with pytest.raises(StoreError, match=f"in the place of {path}"):
        now(at(path, verify=swap).open())
    # Neither directory is locked any more.
    for directory in (path, tmp_path / "away"):
        Directory(str(directory)).check_openable()


TAKEN = {
    "journal": ("journal", *records.encode_journal_row(batch((1, 1), b"n"))),
    "keys": ("keys", records.encode_first_item(1), b"another's"),
}


@pytest.mark.parametrize("record", TAKEN.values(), ids=TAKEN)
def test_record_of_another_writer_is_damage(
    path: Path, record: tuple[str, bytes, bytes]
) -> None:
    """
    The batch that would replace it is not taken.
    """
    name, key, value = record
    with at(path) as store:
        databases = store.opened.databases
        with databases.env.begin(write=True) as txn:
            txn.put(key, value, db=getattr(databases, name))
        with pytest.raises(StoreDamaged, match=f"{path} is damaged: .* already"):
            store.step(b"n", b"key")
    assert counted(path)[b"cursor"] + counted(path)[b"journal"] <= 2


def put_in_place_of_lmdb(
    env: object, store: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = Databases(env, None, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(store.opened, "databases", databases)


@pytest.mark.parametrize(
    "error",
    [
        lmdb.DiskError("mdb_txn_commit: Input/output error"),
        lmdb.PanicError("mdb_txn_commit: MDB_PANIC"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("a bug"),
    ],
)
def test_after_an_error_while_lmdb_writes_the_outcome_is_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    env = Mock()
    env.begin.return_value.commit.side_effect = error
    with at(path) as store:
        put_in_place_of_lmdb(env, store, monkeypatch)
        with pytest.raises(OutcomeUnknown, match=re.escape(str(error))) as raised:
            store.step(b"n")
        assert raised.value.__cause__ is error
        monkeypatch.undo()


@pytest.mark.parametrize("fails", ["grow_map", "ensure_space", "begin", "put"])
def test_after_an_error_before_anything_is_written_the_batch_is_not_stored(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    env, failing = Mock(), Mock(side_effect=lmdb.DiskError("Input/output error"))
    with at(path) as store:
        if fails == "begin":
            env.begin = failing
        elif fails == "put":
            env.begin.return_value.put = failing
        else:
            monkeypatch.setattr(Reserve, fails, failing)
        put_in_place_of_lmdb(env, store, monkeypatch)
        with pytest.raises(StoreError, match=f"{path} .* Input/output error"):
            store.step(b"n")
        assert env.begin.return_value.abort.call_count == (fails == "put")
        monkeypatch.undo()


@pytest.mark.parametrize(
    "error",
    [
        # A commit has failed in the other thread.
        lmdb.PanicError("Update of meta page failed"),
        lmdb.ReadersFullError("mdb_txn_begin: MDB_READERS_FULL"),
        lmdb.DiskError("mdb_get: Input/output error"),
    ],
)
def test_history_that_cannot_be_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: lmdb.Error
) -> None:
    with at(path) as store:
        put_in_place_of_lmdb(Mock(begin=Mock(side_effect=error)), store, monkeypatch)
        with pytest.raises(Refusal):
            now(store.history(ABOVE_ALL, 1))
        monkeypatch.undo()
