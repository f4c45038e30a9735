"""
The promises of the LMDB store beyond the contract: files, faults, sizes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

import lmdb
import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from pexservice.core.cursor import Cursor, Transition, position_after
from pexservice.stores.errors import (
    OutcomeUnknown,
    Refusal,
    StoreBusy,
    StoreDamaged,
    StoreError,
)
from pexservice.stores.interface import IExclusiveStore
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import (
    DATA_FILE,
    STAGING_DIRECTORY,
    WITNESS_FILE,
    Directory,
)
from pexservice.stores.lmdb.file_system import READER_TABLE_FILE
from pexservice.stores.lmdb.reserve import MAX_DISK_FRACTION, RESERVE_BYTES, Reserve
from pexservice.stores.lmdb.store import PATH_CHECK_INTERVAL_SECONDS, LmdbStore
from pexservice.stores.lmdb.transaction import MAX_TRIMMED_ROWS, TRIM_SLACK
from pexservice.stores.lmdb.verify import verify, verify_in_child
from pexservice.stores.remembered_keys import pack_use
from tests.support.fakes import ABOVE_ALL, now
from tests.support.inline_executor import inline
from tests.support.stores import copied
from tests.unit.stores.test_contract import batch


def at(path: Path, *, map_size: int | None = None, **kwargs: object) -> LmdbStore:
    """
    Return a store in C{path}.
    """
    arguments: dict[str, object] = {"verify": verify, **kwargs}
    store = LmdbStore(Directory(str(path)), inline(), **arguments)  # type: ignore[arg-type]
    if map_size is not None:
        store._map_size = map_size
    return store


def filled(path: Path, count: int = 500) -> tuple[int, int]:
    """
    Make a store of C{count} batches in C{path}.

    @return: the state of the store.
    """
    return fill(path, count)


@copied
def fill(path: Path, count: int) -> tuple[int, int]:
    store = at(path)
    state = now(store.open())
    for number in range(count):
        taken = batch(state, b"nnnp", b"key-%d" % number)
        now(store.commit(taken))
        state = taken.after
    now(store.close())
    return state


def mode(path: Path) -> int:
    """
    Return the permissions of C{path}.
    """
    return stat.S_IMODE(path.stat().st_mode)


def snapshot(path: Path) -> dict[str, bytes]:
    """
    Return the contents of every file below C{path}.
    """
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_open_store_reports_its_size_and_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also when its directory has been renamed.
    """
    filled(tmp_path / "store")
    monkeypatch.setattr("pexservice.stores.lmdb.reserve.MAX_DISK_FRACTION", 0)
    store = at(tmp_path / "store", map_size=1 << 24)
    assert verifyObject(IExclusiveStore, store)
    assert store.space() is None
    now(store.open())
    space = store.space()
    assert space is not None
    assert space.used == (tmp_path / "store" / DATA_FILE).stat().st_size
    assert space.limit == 1 << 24
    assert 0 < space.free <= space.size
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert store.space() is not None
    now(store.close())
    assert store.space() is None


def test_directory_and_files_are_the_owners_alone(tmp_path: Path) -> None:
    """
    Also if the directory was open to all before.
    """
    os.umask(0o022)
    created, given = tmp_path / "made", tmp_path / "given"
    given.mkdir(0o755)
    for path in (created, given):
        store = at(path)
        now(store.open())
        assert (mode(path), mode(path / DATA_FILE)) == (0o700, 0o600)
        now(store.close())


def test_second_owner_is_refused_with_the_name_of_the_store(tmp_path: Path) -> None:
    store = at(tmp_path / "store")
    now(store.open())
    with pytest.raises(StoreBusy, match=f"{tmp_path}/store is in use"):
        now(at(tmp_path / "store").open())
    now(store.close())
    second = at(tmp_path / "store")
    now(second.open())
    now(second.close())


def test_missing_parent_directory_is_not_created(tmp_path: Path) -> None:
    """
    So a mistyped path creates no tree.
    """
    with pytest.raises(StoreError, match="No such file or directory"):
        now(at(tmp_path / "missing" / "store").open())
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_directory_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(StoreError, match="Not a directory"):
        now(at(path).open())
    assert path.read_text() == "precious"


def test_directory_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"something else \(thesis.tex\)"):
        now(at(tmp_path).open())
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


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
    store = at(tmp_path)
    assert now(store.open()) == (0, 0)
    now(store.close())
    assert {file.name for file in tmp_path.iterdir()} == {
        *(DATA_FILE, READER_TABLE_FILE, WITNESS_FILE),
        "lost+found",
    }


def test_store_that_cannot_be_created_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It can be created later.
    """
    path = tmp_path / "store"

    def failing(*_: object, **__: object) -> None:
        raise lmdb.DiskError("No space left on device")

    monkeypatch.setattr("pexservice.stores.lmdb.store.lmdb.open", failing)
    with pytest.raises(StoreError, match=f"{path} cannot be made: No space"):
        now(at(path).open())
    monkeypatch.undo()
    store = at(path)
    assert now(store.open()) == (0, 0)
    now(store.close())


def test_trouble_around_a_store_is_no_damage(tmp_path: Path) -> None:
    """
    A store that its surroundings keep from being opened is not called damaged.

    Otherwise no worker would try to open the store again.
    """
    path = tmp_path / "store"
    state = filled(path, 1)
    for error in (
        lmdb.DiskError("No space left on device"),
        # LMDB's error when its reader table cannot be locked.
        lmdb.InvalidParameterError("Invalid argument"),
        OSError("no process to verify it with"),
    ):

        def failing(_: object, error: Exception = error) -> None:
            raise error

        with pytest.raises(StoreError, match=f"{path} cannot be used") as caught:
            now(at(path, verify=failing).open())
        assert caught.type is StoreError
    store = at(path)
    assert now(store.open()) == state
    now(store.close())


def truncate_to(fraction: float) -> Callable[[bytes], bytes]:
    """
    Return a damage that cuts off the file after C{fraction} of its length.
    """
    return lambda data: data[: int(len(data) * fraction)]


def overwrite(start: int, length: int) -> Callable[[bytes], bytes]:
    """
    Return a damage that writes zeros over C{length} bytes from C{start}.
    """
    return lambda data: data[:start] + bytes(length) + data[start + length :]


DAMAGES = {
    "empty": truncate_to(0),
    "one page": lambda data: data[:4096],
    "a half": truncate_to(0.5),
    "all but the last pages": truncate_to(0.9),
    "garbage": lambda data: b"\xa5" * len(data),
    "zeros": lambda data: bytes(len(data)),
    "both meta pages gone": overwrite(0, 8192),
    "all data pages gone": lambda data: data[:8192] + bytes(len(data) - 8192),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_store_is_reported_and_unchanged(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """
    It is read in a process that may die of it.
    """
    path = tmp_path / "store"
    filled(path)
    data = path / DATA_FILE
    data.write_bytes(damage(data.read_bytes()))
    before = snapshot(path)
    with pytest.raises(StoreDamaged, match=str(path)):
        now(at(path, verify=verify_in_child).open())
    assert snapshot(path) == before


def test_child_process_accepts_an_undamaged_store(tmp_path: Path) -> None:
    state = filled(tmp_path / "store")
    store = at(tmp_path / "store", verify=verify_in_child)
    assert now(store.open()) == state
    now(store.close())


def test_directory_without_its_data_file_is_damaged(tmp_path: Path) -> None:
    """
    No new store begins in it.
    """
    path = tmp_path / "store"
    filled(path)
    (path / DATA_FILE).unlink()
    with pytest.raises(StoreDamaged, match=f"lost its file {DATA_FILE}"):
        now(at(path).open())


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


ROW = records.encode_row_number(5)


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
    "row after the last": (
        b"journal",
        *records.encode_journal_row(batch((2000, 1000), b"n")),
    ),
    "keys missing": (b"keys", records.encode_row_number(65), None),
    "newest keys missing": (b"keys", records.encode_row_number(449), None),
    "newest keys of an earlier commit": (b"keys", *key_row(449, 1800, b"key-448")),
    "keys torn": (b"keys", records.encode_row_number(65), b"torn"),
    "keys of others": (b"keys", *key_row(65, 1, b"key-64")),
    "keys that are newer than the cursor": (b"keys", *key_row(501, 2001, b"key")),
    "keys that are older than those before": (b"keys", *key_row(501, 1, b"key")),
    "keys without names": (b"keys", *key_row(501, 1999, b"")),
}


@pytest.mark.parametrize("record", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradicting_records_are_damage_although_lmdb_accepts_them(
    tmp_path: Path, record: tuple[bytes, bytes, bytes | None]
) -> None:
    path = tmp_path / "store"
    assert filled(path) == (2000, 1000)
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
    tmp_path: Path, contradiction: str, reason: str
) -> None:
    """
    Opening a store without reading it whole still compares cursor, journal and keys.
    """
    path = tmp_path / "store"
    filled(path)
    put(path, *CONTRADICTIONS[contradiction])
    with pytest.raises(StoreDamaged, match=reason):
        now(at(path, verify=lambda _: None).open())


def test_reader_table_that_cannot_be_locked_is_no_damage(tmp_path: Path) -> None:
    """
    The store may be opened later.
    """
    path = tmp_path / "store"
    state = filled(path, 1)
    (path / READER_TABLE_FILE).unlink()
    with Popen(
        [sys.executable, "-c", HOLDS_A_LOCK, str(path / READER_TABLE_FILE)],
        stdin=PIPE,
        stdout=PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="cannot be locked") as caught:
            now(at(path).open())
        assert not isinstance(caught.value, StoreDamaged)
        holder.communicate()
    store = at(path)
    assert now(store.open()) == state
    now(store.close())


#: A program that locks LMDB's reader table, as LMDB does, and puts nothing in it.
HOLDS_A_LOCK = """
import fcntl, sys
with open(sys.argv[1], "w+b") as file:
    fcntl.lockf(file, fcntl.LOCK_SH, 1)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_batch_writes_only_one_more_byte_per_step(tmp_path: Path) -> None:

    def rows(transitions: bytes) -> dict[bytes, list[int]]:
        path = tmp_path / str(len(transitions))
        store = at(path)
        now(store.open())
        now(store.commit(batch((0, 0), transitions)))
        now(store.close())
        with lmdb.open(str(path), max_dbs=3) as env, env.begin() as txn:
            return {
                name: [
                    len(key) + len(value)
                    for key, value in txn.cursor(env.open_db(name, txn))
                ]
                for name in DATABASES
            }

    one_step, thousand = rows(b"n"), rows(b"n" * 1000)
    assert one_step == {b"cursor": [36], b"journal": [29], b"keys": []}
    assert thousand == {**one_step, b"journal": [29 + 999]}


def test_map_grows_within_the_share_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store continues, also when it is opened again.
    """
    store = at(tmp_path / "store", map_size=128 * 1024)
    state = now(store.open())
    for _ in range(3):
        large = batch(state, b"n" * 200_000)
        now(store.commit(large))
        state = large.after
    space = store.space()
    assert space is not None
    assert space.used > 128 * 1024
    assert space.limit == pytest.approx(
        (space.used + space.free) * MAX_DISK_FRACTION, rel=0.1
    )
    now(store.close())
    monkeypatch.setattr("pexservice.stores.lmdb.reserve.MAX_DISK_FRACTION", 0)
    again = at(tmp_path / "store", map_size=128 * 1024)
    assert now(again.open()) == state
    now(again.commit(batch(state, b"n")))
    now(again.close())


def test_batch_that_does_not_fit_never_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store takes a batch that needs less space.
    """
    monkeypatch.setattr("pexservice.stores.lmdb.reserve.MAX_DISK_FRACTION", 0)
    store = at(tmp_path / "store", map_size=128 * 1024)
    state = now(store.open())
    with pytest.raises(Refusal, match="is full"):
        now(store.commit(batch(state, b"n" * 200_000)))
    taken = batch(state, b"nn", b"key")
    now(store.commit(taken))
    assert [row.revision for row in now(store.history(ABOVE_ALL, 10))] == [2, 1]
    now(store.close())
    again = at(tmp_path / "store")
    assert now(again.open()) == (2, 2)
    now(again.close())


def test_a_steady_store_needs_no_reserve(tmp_path: Path) -> None:
    """
    The file stops growing once the store has all the transitions and keys that it keeps.
    """
    path = tmp_path / "store"
    store = at(path, journal=300, kept_keys=300)
    state = now(store.open())
    sizes = []
    for _ in range(4):
        for number in range(3 * TRIM_SLACK):
            taken = batch(state, b"n", b"key-%d-%d" % (state[0], number))
            now(store.commit(taken))
            state = taken.after
        sizes.append((path / DATA_FILE).stat().st_size)
    assert sizes[-1] == sizes[1]
    now(store.close())
    verify(path)


def test_store_stops_growing_with_the_default_journal(tmp_path: Path) -> None:
    """
    It is no larger after 1,000,000 steps than after 200,000.
    """
    path = tmp_path / "store"
    store = at(path)
    state, sizes = now(store.open()), []
    for count in range(1, 1001):
        taken = batch(state, b"nnnp" * 250)
        now(store.commit(taken))
        state = taken.after
        if count in (200, 1000):
            sizes.append((path / DATA_FILE).stat().st_size)
    now(store.close())
    assert state[0] == 1_000_000
    assert sizes[1] <= sizes[0]


def test_store_reserves_disk_space_beyond_its_used_pages(tmp_path: Path) -> None:
    """
    The reserve is kept also after the store has grown.

    The file is as long as ever, and opening the store again takes no more space.
    """
    path = tmp_path / "store"
    store = at(path, journal=TRIM_SLACK)
    state = now(store.open())

    def taken_beyond() -> int:
        file_status = (path / DATA_FILE).stat()
        return file_status.st_blocks * 512 - file_status.st_size

    assert taken_beyond() >= RESERVE_BYTES
    assert state == (0, 0)
    steps = 2 * RESERVE_BYTES
    now(store.commit(batch((0, 0), b"n" * steps)))
    assert taken_beyond() >= RESERVE_BYTES
    size = (path / DATA_FILE).stat().st_size
    now(store.close())
    for _ in range(3):
        store = at(path)
        now(store.open())
        now(store.close())
    assert taken_beyond() < 2 * RESERVE_BYTES
    assert (path / DATA_FILE).stat().st_size == size
    verify(path)


def test_first_commit_with_a_shorter_journal_trims_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    state = filled(path, 2 * TRIM_SLACK)
    store = at(path, journal=4)
    assert now(store.open()) == state
    taken = batch(state, b"n")
    now(store.commit(taken))
    assert len(now(store.history(ABOVE_ALL, 1000))) == 4
    now(store.close())
    with lmdb.open(str(path), max_dbs=3) as env, env.begin() as txn:
        assert txn.stat(env.open_db(b"journal", txn))["entries"] == 2


def counted(path: Path) -> dict[bytes, int]:
    """
    Return how many records each database of the store in C{path} has.
    """
    with lmdb.open(str(path), max_dbs=3) as env, env.begin() as txn:
        return {name: txn.stat(env.open_db(name, txn))["entries"] for name in DATABASES}


def test_shorter_journal_is_reached_in_bounded_commits(tmp_path: Path) -> None:
    """
    The visible history is short at once.
    """
    path = tmp_path / "store"
    state = filled(path, 3 * MAX_TRIMMED_ROWS)
    rows = 3 * MAX_TRIMMED_ROWS
    while rows > TRIM_SLACK:
        store = at(path, journal=4, kept_keys=4)
        assert now(store.open()) == state
        taken = batch(state, b"n")
        now(store.commit(taken))
        state = taken.after
        assert len(now(store.history(ABOVE_ALL, 1000))) == 4
        now(store.close())
        verify(path)
        before, rows = rows, counted(path)[b"journal"]
        assert before - MAX_TRIMMED_ROWS <= rows < before
    assert counted(path)[b"keys"] <= 2


def test_commit_removes_fewer_long_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Rows with many transitions are many pages.
    """
    monkeypatch.setattr("pexservice.stores.lmdb.transaction.MAX_TRIMMED_ITEMS", 10)
    path = tmp_path / "store"
    state = filled(path, TRIM_SLACK)
    store = at(path, journal=4)
    now(store.open())
    taken = batch(state, b"n")
    now(store.commit(taken))
    now(store.close())
    # Three rows of four transitions reach the limit of ten, and one row is new.
    assert counted(path)[b"journal"] == TRIM_SLACK - 3 + 1
    verify(path)


def test_number_of_keys_stays_bounded_with_large_batches(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = at(path, kept_keys=10)
    state = now(store.open())
    for number in range(5):
        names = [b"%d-%d" % (number, index) for index in range(2 * MAX_TRIMMED_ROWS)]
        taken = batch(state, b"n" * len(names), *names)
        now(store.commit(taken))
        state = taken.after
    now(store.close())
    # A row for each batch, of which the newest is enough for ten keys.
    assert counted(path)[b"keys"] == 1


def test_no_more_of_a_row_is_replayed_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Reading the newest of a batch of 10,000 transitions replays one transition.
    """
    store = at(tmp_path / "store")
    now(store.open())
    now(store.commit(batch((0, 0), b"n" * 10_000)))
    replayed = []

    def replay(position: int, transition: Transition) -> int:
        replayed.append(position)
        return position_after(position, transition)

    monkeypatch.setattr(records, "position_after", replay)
    assert [row.revision for row in now(store.history(ABOVE_ALL, 1))] == [10_000]
    assert replayed == [9_999]
    now(store.close())


def test_moved_store_takes_nothing_and_can_be_read(tmp_path: Path) -> None:
    """
    It continues when its directory is moved back.
    """
    path, clock = tmp_path / "store", Clock()
    store = at(path, monotonic=clock.seconds)
    now(store.open())
    first = batch((0, 0), b"n")
    now(store.commit(first))
    path.rename(tmp_path / "away")
    clock.advance(PATH_CHECK_INTERVAL_SECONDS)
    for _ in range(2):
        with pytest.raises(Refusal, match=f"{path} was moved away"):
            now(store.commit(batch(first.after, b"n")))
    assert len(now(store.history(ABOVE_ALL, 10))) == 1
    (tmp_path / "away").rename(path)
    now(store.commit(batch(first.after, b"n")))
    now(store.close())


@pytest.mark.parametrize("whole", [True, False], ids=["directory", "file"])
def test_store_takes_nothing_while_another_is_in_its_place(
    tmp_path: Path, *, whole: bool
) -> None:
    path, clock = tmp_path / "store", Clock()
    filled(tmp_path / "other")
    store = at(path, monotonic=clock.seconds)
    now(store.open())
    taken = batch((0, 0), b"n")
    now(store.commit(taken))
    if whole:
        path.rename(tmp_path / "away")
        (tmp_path / "other").rename(path)
    else:
        (tmp_path / "other" / DATA_FILE).rename(path / DATA_FILE)
    clock.advance(PATH_CHECK_INTERVAL_SECONDS)
    with pytest.raises(Refusal, match=f"in the place of {path}"):
        now(store.commit(batch(taken.after, b"n")))
    assert store.commit_refusal() is not None
    now(store.close())


def test_store_replaced_during_its_verification_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    filled(path)
    filled(tmp_path / "other")

    def swap(_: Path) -> None:
        path.rename(tmp_path / "away")
        (tmp_path / "other").rename(path)

    with pytest.raises(StoreError, match=f"in the place of {path}"):
        now(at(path, verify=swap).open())
    # Neither directory is locked any more.
    for directory in (path, tmp_path / "away"):
        store = at(directory)
        now(store.open())
        now(store.close())


TAKEN = {
    "journal": (b"journal", *records.encode_journal_row(batch((1, 1), b"n"))),
    "keys": (b"keys", records.encode_row_number(1), b"another's"),
}


@pytest.mark.parametrize("record", TAKEN.values(), ids=TAKEN)
def test_record_of_another_writer_is_damage(
    tmp_path: Path, record: tuple[bytes, bytes, bytes]
) -> None:
    """
    The batch that would replace it is not taken.
    """
    path = tmp_path / "store"
    store = at(path)
    now(store.open())
    name, key, value = record
    databases = store._databases
    with databases.env.begin(write=True) as txn:
        txn.put(key, value, db=getattr(databases, name.decode()))
    with pytest.raises(StoreDamaged, match=f"{path} is damaged: .* already"):
        now(store.commit(batch((0, 0), b"n", b"key")))
    now(store.close())
    assert counted(path)[b"cursor"] + counted(path)[b"journal"] <= 2


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = at(tmp_path / "store")
    now(store.open())

    class Broken:
        def begin(self, *, write: bool) -> Broken:
            assert write
            return self

        def put(self, *_: object, **__: object) -> bool:
            return True

        def commit(self) -> None:
            raise error

    opened = store._databases
    monkeypatch.setattr(store, "_open_databases", type(opened)(Broken(), None, None, None))  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown, match=re.escape(str(error))) as raised:
        now(store.commit(batch((0, 0), b"n")))
    assert raised.value.__cause__ is error
    monkeypatch.undo()
    now(store.close())


class Unwritable:
    """
    An environment whose transactions fail in the method C{fails}, before their commit.
    """

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.aborted = 0

    def begin(self, *, write: bool) -> Unwritable:
        assert write
        if self.fails == "begin":
            raise lmdb.DiskError("Input/output error")
        return self

    def put(self, *_: object, **__: object) -> bool:
        raise lmdb.DiskError("Input/output error")

    def abort(self) -> None:
        self.aborted += 1


@pytest.mark.parametrize("fails", ["begin", "put"])
def test_after_an_error_before_anything_is_written_the_batch_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "store"
    store, env = at(path), Unwritable(fails)
    now(store.open())
    opened = store._databases
    monkeypatch.setattr(store, "_open_databases", type(opened)(env, None, None, None))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=f"{path} .* Input/output error"):
        now(store.commit(batch((0, 0), b"n")))
    assert env.aborted == (fails == "put")
    monkeypatch.undo()
    now(store.close())


@pytest.mark.parametrize("method", ["grow_map", "ensure_space"])
def test_after_an_error_of_the_reserve_the_batch_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    store = at(tmp_path / "store")
    now(store.open())

    def broken(_: object, __: int) -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(Reserve, method, broken)
    with pytest.raises(StoreError, match="Input/output error"):
        now(store.commit(batch((0, 0), b"n")))
    now(store.close())


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: lmdb.Error
) -> None:
    store = at(tmp_path / "store")
    now(store.open())

    class Unreadable:
        def begin(self) -> None:
            raise error

    replaced = type(store._databases)(Unreadable(), None, None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(store, "_open_databases", replaced)
    with pytest.raises(Refusal):
        now(store.history(ABOVE_ALL, 1))
    monkeypatch.undo()
    now(store.close())
