"""
Damage that is found while the store is served: it ends as damage at the start does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pexservice.process.supervisor_report import SupervisorReport
from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import StoreDamaged, StoreUnavailable
from pexservice.stores.lmdb import records
from pexservice.stores.lmdb.child import Progress
from pexservice.stores.lmdb.directory import DATA_FILE, Directory
from pexservice.stores.lmdb.records import WitnessRecord
from pexservice.stores.lmdb.transaction import TRIM_SLACK
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.lmdb.witness import read_witness
from pexservice.stores.verification import VerificationRecord
from tests.support.fakes import ABOVE_ALL, inline, now
from tests.support.lmdb_pages import BRANCH, LEAF, PagedFile
from tests.unit.stores.lmdb.test_store import StoreUnderTest, at, filled
from tests.unit.stores.test_contract import batch

#: Rows of four transitions, with a key each.
BATCHES = 2 * TRIM_SLACK
NEWEST = 4 * BATCHES

Damage = Callable[[PagedFile], None]


def in_value(value: bytes) -> Damage:
    """
    Return a damage to the last bit of a record's value, in each place that has the value.
    """

    def damage(file: PagedFile) -> None:
        places = list(re.finditer(re.escape(value), file.data))
        assert places
        for place in places:
            file.put(0, place.end() - 1, bytes((value[-1] ^ 1,)))

    return damage


def unknown_leaves(file: PagedFile) -> None:
    """
    Give every leaf flags that no page has.
    """
    for page in file.used[LEAF]:
        file.put(page, 10, b"\4\0")


def no_children(file: PagedFile) -> None:
    """
    Let every branch page have its children beyond the end of the file.
    """
    for page in file.used[BRANCH]:
        for node in file.nodes(page):
            file.put(page, node, b"\xff" * 6)


def row(number: int) -> bytes:
    """
    Return the value of the journal row of batch C{number}.
    """
    return records.encode_journal_row(batch((4 * number, 2 * number), b"nnnp"))[1]


Call = Callable[[StoreUnderTest], object]


def history(store: StoreUnderTest) -> None:
    now(store.history(ABOVE_ALL, NEWEST))


def commit(store: StoreUnderTest) -> None:
    """
    Make steps, which trims the oldest rows.
    """
    store.step(b"nnnp", b"another key")


#: By name: the damage, the call that finds it, and words of the error.
CASES: dict[str, tuple[Damage, Call, str]] = {
    "row": (in_value(row(BATCHES - 1)), history, "checksum"),
    "pages, history": (unknown_leaves, history, "MDB_BAD_TXN"),
    "pages, commit": (unknown_leaves, commit, "MDB_BAD_TXN"),
    "children, history": (no_children, history, "MDB_PAGE_NOTFOUND"),
    "children, commit": (no_children, commit, "MDB_PAGE_NOTFOUND"),
}


@pytest.mark.parametrize(("damage", "call", "message"), CASES.values(), ids=CASES)
def test_damage_that_a_call_meets_is_reported_and_changes_nothing(
    path: Path, damage: Damage, call: Call, message: str
) -> None:
    """
    A standby that takes over without a full verification does not serve that store.
    """
    filled(path, BATCHES)
    with at(path, kept_transitions=4, kept_keys=4) as store:
        damage(PagedFile(path))
        before = (path / DATA_FILE).read_bytes()
        with pytest.raises(StoreDamaged, match=f"{path} is damaged: .*{message}"):
            call(store)
    assert (path / DATA_FILE).read_bytes() == before
    assert read_witness(path) == WitnessRecord(NEWEST, sound=False)
    for verification in (None, verify):
        with pytest.raises(StoreDamaged, match=f"{path} (is|was found) damaged"):
            now(at(path, verify=verification).open())
    assert (path / DATA_FILE).read_bytes() == before


def test_missing_journal_row_is_damage(path: Path) -> None:
    """
    Although each other row is valid.
    """
    filled(path, 5)
    with at(path) as store:
        databases = store.opened.databases
        with databases.env.begin(write=True) as txn:
            assert txn.delete(records.encode_first_item(9), db=databases.journal)
        with pytest.raises(StoreDamaged, match="breaks off before revision 13"):
            now(store.history(ABOVE_ALL, 100))


class ServiceOnDisk:
    """
    A supervisor and the stores of its workers.

    @ivar report: the supervisor's report, which the workers read.
    @ivar verified: how often a worker has verified the store.
    """

    def __init__(self, path: Path, board: int) -> None:
        self.report, self.verified = SupervisorReport(), 0
        self._path, self._board = path, board

    def store(self) -> StoreUnderTest:
        """
        Return the store of a new worker.
        """
        return StoreUnderTest(
            Directory(str(self._path), claim=StoreClaim(self._board)),
            inline(),
            verify=self._verify,
            verification=VerificationRecord(self._board, lambda: self.report),
        )

    def _verify(self, path: Path, progress: Progress) -> None:
        self.verified += 1
        verify(path, progress)


@pytest.fixture
def service(path: Path, board: int) -> ServiceOnDisk:
    """
    Provide a service none of whose workers has opened the store.
    """
    filled(path, BATCHES)
    return ServiceOnDisk(path, board)


@pytest.mark.parametrize("was_served", [False, True])
def test_standby_verifies_a_store_whose_verification_was_not_completed(
    path: Path, service: ServiceOnDisk, *, was_served: bool
) -> None:
    """
    The worker before it verified the store, and found damage or was killed.
    """
    if was_served:
        with service.store():
            pass
        service.report.suspicious_ends = 1
    in_value(row(BATCHES // 2))(PagedFile(path))
    if was_served:
        with pytest.raises(StoreDamaged, match="checksum"):
            now(service.store().open())
    verifying = Directory(str(path))
    verifying.lock()
    standby = service.store()
    with pytest.raises(StoreUnavailable, match=f"{path} is not verified yet"):
        now(standby.open(verifying.unlock))
    with pytest.raises(StoreDamaged, match="checksum"):
        now(standby.open())


def test_standby_takes_over_a_store_that_its_service_has_created(
    path: Path, board: int
) -> None:
    """
    There was nothing to verify, so no verification is missing.
    """
    service = ServiceOnDisk(path, board)
    active, standby = service.store(), service.store()
    now(active.open())
    now(standby.open(active.close))
    assert service.verified == 0
    now(standby.close())


def test_store_is_served_again_when_it_verifies_as_undamaged(path: Path) -> None:
    """
    A store that was found damaged is served again once it is found whole.

    All its pages and records must be found whole.  They are whole when the damage was one
    of memory, or when the store was restored.
    """
    filled(path, BATCHES)
    with at(path) as store:
        whole = (path / DATA_FILE).read_bytes()
        in_value(row(BATCHES - 1))(PagedFile(path))
        with pytest.raises(StoreDamaged):
            now(store.history(ABOVE_ALL, 10))
    (path / DATA_FILE).write_bytes(whole)
    with pytest.raises(StoreDamaged, match="was found damaged while it was served"):
        now(at(path, verify=None).open())
    for verification in (verify, None):
        with at(path, verify=verification):
            pass
    assert read_witness(path) == WitnessRecord(NEWEST)
