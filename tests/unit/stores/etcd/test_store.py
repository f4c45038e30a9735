"""
The store of many nodes, when answers do not come.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import (
    OutcomeUnknown,
    Refusal,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
)
from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import CALL_TIMEOUT_SECONDS, CallRefused, CallUnanswered
from pexservice.stores.etcd.records import Layout, encode_cursor
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import Batch
from pexservice.stores.remembered_keys import KeyUse
from pexservice.stores.shared_interface import Conflict
from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import ABOVE_ALL, collected, now
from tests.unit.stores.test_contract import batch

LAYOUT = Layout(b"p/")
FIRST = batch((0, 0), b"nn", b"k")
FIRST_MADE = [(1, 1), (2, 2)]
OTHER = batch((0, 0), b"n")
OTHER_MADE = [(1, 1)]


def node(etcd: FakeEtcd, prefix: str = "p/", **options: Any) -> EtcdStore:
    """
    Return another node, whose messages all arrive.
    """
    return EtcdStore(FakeGateway(etcd, Clock()), prefix, **options)


class Bench:
    """
    A node whose messages the test has in its hands, and another one next to it.
    """

    def __init__(self) -> None:
        self.etcd, self.clock = FakeEtcd(), Clock()
        self.gateway = FakeGateway(self.etcd, self.clock)
        self.store = EtcdStore(self.gateway, "p/")
        self.other = node(self.etcd)
        for store in (self.store, self.other):
            assert now(store.open()) == (0, 0)

    def commit(self, taken: Batch = FIRST) -> list[object]:
        """
        Begin to commit C{taken}, and keep the messages of the node from now on.

        @return: a list that gets what the commit ends with.
        """
        self.gateway.open = False
        return collected(self.store.commit(taken))

    def later(self) -> None:
        """
        Let the pause before the next attempt pass.
        """
        self.clock.advance(1)

    def answer_all(self) -> None:
        """
        Let the pause pass, and deliver all messages and their answers.
        """
        self.later()
        while self.gateway.waiting:
            self.gateway.answer()

    def until(self, ended: list[object], fault: Callable[[], object]) -> object:
        """
        Cause a fault at each attempt, and return what the commit ends with.
        """
        while not ended:
            assert self.clock.seconds() <= CALL_TIMEOUT_SECONDS + 1
            fault()
            self.later()
        return ended[0]

    @property
    def moved(self) -> list[tuple[int, int]]:
        """
        Return the states that the history shows after late messages, oldest first.
        """
        while self.gateway.loose:
            self.gateway.arrive()
        rows = now(self.other.history(ABOVE_ALL, 100))
        return [(row.revision, row.position) for row in reversed(rows)]

    def watched(self) -> list[tuple[int, int]]:
        """
        Return a list that gets each cursor that the node learns.
        """
        reported: list[tuple[int, int]] = []
        self.store.watch(reported.append)
        return reported


def assert_refused(reason: str, *asks: Callable[[], Deferred[Any]]) -> None:
    for ask in asks:
        with pytest.raises(Refusal, match=reason):
            now(ask())


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with both nodes open, and a cursor that has not moved yet.
    """
    return Bench()


@pytest.mark.parametrize("arrived", [True, False])
def test_transaction_without_a_response_is_resent_and_happens_once(
    bench: Bench, *, arrived: bool
) -> None:
    """
    Either the response was lost, or the message arrives after its copy.
    """
    ended = bench.commit()
    first = bench.gateway.waiting[0].message
    (bench.gateway.lose_answer if arrived else bench.gateway.lose)()
    assert ended == []
    bench.later()
    assert bench.gateway.waiting[0].message == first
    bench.gateway.answer()
    assert ended == [None]
    assert bench.moved == FIRST_MADE
    # And the store continues from there.
    ended = bench.commit(batch((2, 2), b"n"))
    bench.gateway.answer()
    assert ended == [None]


def test_lost_response_of_a_transaction_is_found_after_others_moved(bench: Bench) -> None:
    ended = bench.commit()
    bench.gateway.lose_answer()
    now(bench.other.read())
    now(bench.other.commit(batch((2, 2), b"r")))
    bench.answer_all()
    assert ended == [None]
    # A batch on a cursor that is known to be old fails without asking etcd.
    (conflict,) = bench.commit(batch((2, 2), b"n"))
    assert isinstance(conflict, Conflict)
    assert conflict.cursor == (3, 0)


@pytest.mark.parametrize("alarmed", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_batch_of_a_node_that_loses_the_race_never_happens(
    bench: Bench, *, lost: bool, alarmed: bool
) -> None:
    """
    The last-batch key shows this after a lost message, too, and even without space.
    """
    ended = bench.commit()
    if lost:
        bench.gateway.lose()
    now(bench.other.commit(OTHER))
    bench.etcd.alarmed = alarmed
    bench.answer_all()
    (conflict,) = ended
    assert isinstance(conflict, Conflict)
    assert (conflict.cursor, conflict.used) == ((1, 1), {})
    assert bench.moved == OTHER_MADE


@pytest.mark.parametrize("late", [True, False])
def test_batch_with_an_unknown_outcome_and_the_next_batch_exclude_each_other(
    bench: Bench, *, late: bool
) -> None:
    """
    Without a response until the deadline, the message arrives before or after the next one.
    """
    ended = bench.commit()
    assert isinstance(bench.until(ended, bench.gateway.lose), OutcomeUnknown)
    again = bench.commit(OTHER)
    if late:
        bench.gateway.arrive()
    bench.gateway.answer()
    if late:
        assert isinstance(again[0], Conflict)
        assert bench.moved == FIRST_MADE
    else:
        assert again == [None]
        assert bench.moved == OTHER_MADE


@pytest.mark.parametrize(("lost", "kind"), [(False, Refusal), (True, OutcomeUnknown)])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (CallRefused(7, "permission denied"), "permission denied"),
        (CallUnanswered("no connection", sent=False), "no connection"),
    ],
)
def test_refused_or_unsent_batch_did_not_happen_unless_an_earlier_copy_may_have(
    bench: Bench, failure: Exception, reason: str, kind: type[Exception], *, lost: bool
) -> None:
    ended = bench.commit()
    if lost:
        bench.gateway.lose_answer()
        bench.later()
    error = bench.until(ended, lambda: bench.gateway.fail(failure))
    assert isinstance(error, kind)
    assert reason in str(error)


def test_batch_does_not_happen_when_etcd_has_no_space(bench: Bench) -> None:
    """
    The store reads the reason and reports it at once.
    """
    bench.etcd.alarmed = True
    ended = bench.commit()
    bench.gateway.answer()
    assert ended == []
    bench.gateway.answer()
    assert isinstance(ended[0], Refusal)
    assert "space exceeded" in str(ended[0])
    assert bench.moved == []


@pytest.mark.parametrize("lost", [False, True])
def test_transaction_that_fills_the_space_of_etcd_has_happened(
    bench: Bench, *, lost: bool
) -> None:
    """
    The store reads that it happened, although etcd refused it and then refuses its copy.
    """
    bench.etcd.filling = True
    ended = bench.commit()
    bench.gateway.answer()
    if lost:
        bench.gateway.lose()
    bench.answer_all()
    assert ended == [None]
    assert bench.moved == FIRST_MADE


def test_outcome_without_space_is_unknown_while_a_copy_may_arrive(bench: Bench) -> None:
    """
    The copy may take effect when there is space again.
    """
    ended = bench.commit()
    bench.gateway.lose()
    bench.etcd.alarmed = True
    assert isinstance(bench.until(ended, bench.answer_all), OutcomeUnknown)


@pytest.mark.parametrize(
    ("lost", "kind", "next_batch"),
    [(False, Conflict, FIRST), (True, OutcomeUnknown, batch((2, 2), b"n"))],
)
def test_node_whose_last_batch_key_has_ended_makes_another_one(
    bench: Bench, kind: type[Exception], next_batch: Batch, *, lost: bool
) -> None:
    """
    Its lease ended, for example while the process slept.

    No mark may have this lease, because etcd would refuse the whole transaction.
    Without this key, a transaction whose response was lost has an unknown outcome.
    """
    ended = bench.commit()
    if lost:
        bench.gateway.lose_answer()
    bench.etcd.expire("1")
    bench.answer_all()
    assert isinstance(ended[0], kind)
    again = bench.commit(next_batch)
    bench.answer_all()
    assert again == [None]


@pytest.mark.parametrize("lost", [False, True])
def test_idempotency_key_of_another_node_makes_the_batch_fail(
    bench: Bench, *, lost: bool
) -> None:
    """
    The conflict tells the first use of the key, also if the cursor has been read since.

    A lost copy could take effect when that key is forgotten, so its outcome is unknown.
    """
    now(bench.other.commit(batch((0, 0), b"p", b"k")))
    now(bench.store.read())
    ended = bench.commit(batch((1, 0), b"n", b"k"))
    if lost:
        bench.gateway.lose()
    bench.answer_all()
    (error,) = ended
    if lost:
        assert isinstance(error, OutcomeUnknown)
    else:
        assert isinstance(error, Conflict)
        assert error.used == {b"k": KeyUse(Transition.PREVIOUS, 1, 0)}
    assert bench.moved == [(1, 0)]


def test_late_message_does_not_remove_keys_that_were_used_again(bench: Bench) -> None:
    forgetful = node(bench.etcd, kept_keys=1)
    cursor = now(forgetful.open())
    for number in range(128):
        taken = batch(cursor, b"n", b"%d" % number)
        now(forgetful.commit(taken))
        cursor = taken.after
    now(forgetful._removing_keys)
    late = next(change for change in bench.etcd.changes if len(change["success"]) > 100)
    now(bench.other.read())
    assert now(bench.other.recall(b"0")) is None
    now(bench.other.commit(batch((128, 128), b"p", b"0")))
    bench.etcd.apply("kv/txn", late)
    assert now(bench.other.recall(b"0")) == KeyUse(Transition.PREVIOUS, 129, 127)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            '{"format": 2, "revision": 1, "position": 1, "keys": 0}',
            "p/cursor: it has format 2, this program knows 1",
        ),
        *((value, "not of this program") for value in ("nonsense", "{}", "[]")),
    ],
)
def test_cursor_of_another_format_or_program_is_refused(
    bench: Bench, value: str, reason: str
) -> None:
    """
    No request and no news of such a record makes a node fail.
    """
    reported = bench.watched()
    bench.etcd.put(LAYOUT.cursor, value.encode())
    bench.gateway.hear()
    with pytest.raises(StoreDamaged, match=reason):
        now(node(bench.etcd).open())
    assert_refused(
        reason.removeprefix("p/cursor: "),
        *(bench.store.read, lambda: bench.store.commit(FIRST)),
        lambda: bench.store.history(ABOVE_ALL, 1),
    )
    assert reported == []


def test_missing_cursor_next_to_other_keys_is_not_created(bench: Bench) -> None:
    """
    Keys of running nodes do not count: they put them again after etcd was emptied.
    """
    now(bench.other.commit(OTHER))
    del bench.etcd.values[b"p/cursor"]
    with pytest.raises(
        StoreDamaged,
        match=r"no cursor, but other keys with the prefix p/, .* b'p/journal/0",
    ):
        now(node(bench.etcd).open())
    del bench.etcd.values[b"p/journal/%020d" % 1]
    assert [key for key in bench.etcd.values if key.startswith(b"p/operations/")]
    assert now(node(bench.etcd).open()) == (0, 0)


def test_reused_etcd_revision_with_another_cursor_takes_no_batch(bench: Bench) -> None:
    """
    After a restore, etcd's revision that an idle node knows comes again with another batch.
    """
    snapshot = bench.etcd.snapshot()
    now(bench.other.commit(batch((0, 0), b"nnn")))
    assert now(bench.store.read()) == (3, 3)
    bench.etcd.restore(snapshot)
    third = node(bench.etcd)
    now(third.open())
    # The new last-batch key took the revision of the lost batch; go back to that revision.
    bench.etcd.revision = snapshot[0]
    now(third.commit(batch((0, 0), b"p")))
    assert bench.store._known_record.mod_revision == third._known_record.mod_revision
    with pytest.raises(Conflict) as conflict:
        now(bench.store.commit(batch((3, 3), b"n")))
    assert conflict.value.cursor == (1, 0)
    assert now(third.read()) == (1, 0)


@pytest.mark.parametrize("bump", [0, 1000])
@pytest.mark.parametrize("steps", [0, 2])
def test_restored_etcd_is_reported_by_a_read(bench: Bench, bump: int, steps: int) -> None:
    """
    A read that shows an earlier revision is reported once, whatever happened since.
    """
    now(bench.other.commit(OTHER))
    snapshot = bench.etcd.snapshot()
    now(bench.other.commit(batch((1, 1), b"nnn")))
    reported = bench.watched()
    assert now(bench.store.read()) == (4, 4)
    bench.etcd.restore(snapshot, bump)
    now(bench.other.read())
    if steps:
        now(bench.other.commit(batch((1, 1), steps * b"n")))
    with capturedLogs() as logs:
        for _ in range(2):
            assert now(bench.store.read()) == (1 + steps, 1 + steps)
    assert reported == [(4, 4), (1 + steps, 1 + steps)]
    (line,) = (formatEvent(log) for log in logs if log["log_level"].name == "critical")
    assert f"from revision 4 to {1 + steps}" in str(line)
    assert bench.store.went_back_count == 1


@pytest.mark.parametrize("bump", [0, 1000])
def test_restored_etcd_is_reported_by_a_commit(bench: Bench, bump: int) -> None:
    """
    A batch that meets an earlier revision did not happen, and the next one follows from it.
    """
    snapshot = bench.etcd.snapshot()
    reported = bench.watched()
    now(bench.store.commit(FIRST))
    bench.etcd.restore(snapshot, bump)
    with pytest.raises(Conflict) as conflict:
        now(bench.store.commit(batch((2, 2), b"n")))
    assert conflict.value.cursor == (0, 0)
    assert reported == [(2, 2), (0, 0)]
    now(bench.store.commit(batch((0, 0), b"p")))
    assert bench.moved == [(1, 0)]


def test_restored_etcd_is_reported_by_the_watch(bench: Bench) -> None:
    """
    News of a higher etcd revision with a lower revision of the cursor is a restore.
    """
    snapshot = bench.etcd.snapshot()
    reported = bench.watched()
    now(bench.store.commit(batch((0, 0), b"nnn")))
    bench.etcd.restore(snapshot, 1000)
    now(bench.other.commit(OTHER))
    bench.gateway.miss()
    bench.gateway.hear()
    assert reported == [(3, 3), (1, 1)]


def test_old_state_read_from_a_slow_member_is_no_restore(bench: Bench) -> None:
    """
    A read that shows an older state than the node knows is checked through etcd's log.
    """
    old = bench.etcd.apply("kv/range", messages.get(LAYOUT.cursor))
    reported = bench.watched()
    now(bench.store.commit(FIRST))
    bench.gateway.open = False
    revisions = collected(bench.store.read())
    bench.gateway.waiting[0].answer = old
    bench.answer_all()
    assert revisions == [(2, 2)]
    assert reported == [(2, 2)]


def test_cursor_of_an_emptied_etcd_is_not_created_by_a_running_node(bench: Bench) -> None:
    """
    A node whose cursor has gone takes no batch and shows no state, and says what to do.
    """
    bench.etcd.values.clear()
    reason = "etcd has lost the key p/cursor; restore etcd"
    assert_refused(reason, bench.store.read, lambda: bench.store.commit(FIRST))
    assert b"p/cursor" not in bench.etcd.values


def test_check_fails_if_a_batch_would_be_refused(bench: Bench) -> None:
    """
    A check and an inspection change nothing, and are refused where a batch would be.
    """
    before = deepcopy(bench.etcd.values)
    assert now(bench.store.probe()) is None
    assert now(node(bench.etcd).inspect()) == ["the cursor is at revision 0, position 0"]
    assert now(node(bench.etcd, "q/").inspect()) == ["no cursor with the prefix q/"]
    assert bench.etcd.values == before
    bench.etcd.alarmed = True
    assert "space exceeded; compact" in str(now(bench.store.probe()))
    bench.etcd.alarmed, bench.etcd.read_only = False, True
    assert "permission denied" in str(now(bench.store.probe()))
    with pytest.raises(StoreError, match="permission denied"):
        now(node(bench.etcd).inspect())
    # A user who may only read opens the store, and reads.
    reader = node(bench.etcd)
    assert now(reader.open()) == (0, 0)
    with pytest.raises(Refusal, match="permission denied"):
        now(reader.commit(FIRST))


def test_cursor_is_created_once_and_only_if_it_may_be() -> None:
    """
    With C{--no-create}, the message names the verb that creates.  Creating is a warning.

    Without space, a retry may succeed.
    """
    etcd = FakeEtcd()
    with pytest.raises(StoreUnavailable, match="space exceeded"):
        now(node(FakeEtcd(alarmed=True)).open())
    with pytest.raises(StoreError, match=r"has no cursor with the prefix p/.*create"):
        now(node(etcd, create=False).open())
    assert etcd.values == {}
    with capturedLogs() as logs:
        now(node(etcd).create())
    assert [event["log_level"].name for event in logs] == ["warn"]
    with pytest.raises(StoreError, match="has a cursor with the prefix p/ already"):
        now(node(etcd).create())
    with capturedLogs() as logs:
        assert now(node(etcd, create=False).open()) == (0, 0)
    assert logs == []


def test_later_worker_creates_no_cursor_in_an_emptied_etcd(board: int) -> None:
    claim = StoreClaim(board)
    now(node(FakeEtcd(), claim=claim).open())
    with pytest.raises(StoreError, match="has no cursor with the prefix p/"):
        now(node(FakeEtcd(), claim=claim).open())


def test_one_of_two_nodes_creates_the_store_and_both_have_it() -> None:
    etcd, clock = FakeEtcd(), Clock()
    gateways = [FakeGateway(etcd, clock, open=False) for _ in range(2)]
    opened = [EtcdStore(gateway, "p/").open() for gateway in gateways]
    while any(gateway.waiting for gateway in gateways):
        for gateway in gateways:
            gateway.answer()
    assert [now(opening) for opening in opened] == [(0, 0), (0, 0)]


def test_journal_length_is_kept_with_the_cursor() -> None:
    """
    All nodes keep as many transitions as the node that created the cursor said.
    """
    etcd = FakeEtcd()
    now(node(etcd, journal=3).open())
    store = node(etcd, journal=500)
    with capturedLogs() as logs:
        cursor = now(store.open())
    (event,) = logs
    assert str(formatEvent(event)).startswith("--journal 500 is not used")
    for _ in range(200):
        taken = batch(cursor, b"n")
        now(store.commit(taken))
        cursor = taken.after
    assert len(now(store.history(ABOVE_ALL, 1000))) == 3
    rows = [key for key in etcd.values if key.startswith(b"p/journal/")]
    assert len(rows) < 3 + 128


def test_read_that_is_not_answered_ends_within_five_seconds(bench: Bench) -> None:
    """
    A read is repeated until another attempt could take longer than that.
    """
    bench.gateway.open = False
    ended = collected(bench.store.read())
    while not ended:
        bench.clock.advance(1)
        bench.gateway.fail(CallUnanswered("http://h:1: no answer in 1.0 s", sent=True))
        bench.clock.advance(0.1)
    assert bench.clock.seconds() <= CALL_TIMEOUT_SECONDS
    assert str(ended[0]) == "etcd does not answer: http://h:1: no answer in 1.0 s"


def test_advanced_cursor_has_the_revision_and_the_old_position(bench: Bench) -> None:
    """
    After a restore an operator continues beyond the highest revision that anybody saw.
    """
    now(bench.other.commit(batch((0, 0), b"nn")))
    reported = bench.watched()
    fresh = node(bench.etcd)
    for low in (1, 2):
        with pytest.raises(StoreError, match=r"at revision 2; choose a higher one"):
            now(fresh.advance(low))
    assert now(fresh.advance(1000)) == (1000, 2)
    assert not [key for key in bench.etcd.values if key.startswith(b"p/operations/")]
    assert now(fresh.open()) == (1000, 2)
    now(fresh.commit(batch((1000, 2), b"n")))
    assert [row.revision for row in now(fresh.history(ABOVE_ALL, 2))] == [1001, 2]
    assert now(bench.store.read()) == (1001, 3)
    assert reported == [(1001, 3)]
    assert bench.store.went_back_count == 0


def test_revision_beyond_the_highest_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreError, match=r"^revision 9007199254740992: 9"):
        now(bench.other.advance(2**53))
    assert now(bench.other.advance(2**53 - 1)) == (2**53 - 1, 0)
    later = node(bench.etcd)
    now(later.open())
    now(later.commit(batch((2**53 - 1, 0), b"n")))
    assert now(later.read()) == (2**53, 1)


def test_batch_beyond_the_highest_position_is_refused(bench: Bench) -> None:
    cursor = b64decode(encode_cursor(Cursor(7, 10**8), 0, "", 9))
    bench.etcd.put(LAYOUT.cursor, cursor)
    now(bench.other.read())
    with pytest.raises(Refusal, match="position 100000000 is the highest"):
        now(bench.other.commit(batch((7, 10**8), b"n")))
    now(bench.other.commit(batch((7, 10**8), b"r")))
