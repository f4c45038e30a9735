"""
The store of many nodes, when answers do not come.
"""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from pexservice.core.cursor import Cursor, Transition
from pexservice.process import scoreboard
from pexservice.stores.claim import StoreClaim
from pexservice.stores.errors import OutcomeUnknown, Refusal, StoreDamaged, StoreError
from pexservice.stores.etcd import messages
from pexservice.stores.etcd.gateway import CALL_TIMEOUT_SECONDS, CallRefused, CallUnanswered
from pexservice.stores.etcd.records import Layout, encode_cursor, text
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import Batch
from pexservice.stores.remembered_keys import KeyUse
from pexservice.stores.shared_interface import Conflict
from tests.support.fake_etcd import FakeEtcd, FakeGateway
from tests.support.fakes import ABOVE_ALL, now
from tests.unit.stores.test_contract import batch

LAYOUT = Layout(b"p/")
FIRST = batch((0, 0), b"nn", b"k")
OTHER = batch((0, 0), b"n")


class Bench:
    """
    A node whose messages the test has in its hands, and another one next to it.
    """

    def __init__(self) -> None:
        self.etcd, self.clock = FakeEtcd(), Clock()
        self.gateway = FakeGateway(self.etcd, self.clock)
        self.store = EtcdStore(self.gateway, "p/")
        self.other = EtcdStore(FakeGateway(self.etcd, self.clock), "p/")
        for store in (self.store, self.other):
            assert now(store.open()) == (0, 0)
        self.gateway.open = False

    def commit(self, taken: Batch = FIRST) -> list[object]:
        """
        Commit C{taken}.

        @return: a list that gets what the commit ends with.
        """
        ended: list[object] = []
        self.store.commit(taken).addCallbacks(ended.append, lambda f: ended.append(f.value))
        return ended

    def later(self) -> None:
        """
        Let the pause before the next attempt pass.
        """
        self.clock.advance(1)

    @property
    def moved(self) -> list[tuple[int, int]]:
        """
        Return the states that the history shows, oldest first.
        """
        rows = now(self.other.history(ABOVE_ALL, 100))
        return [(row.revision, row.position) for row in reversed(rows)]


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with both nodes open, and a cursor that has not moved yet.
    """
    return Bench()


def test_response_of_etcd_ends_the_commit(bench: Bench) -> None:
    ended = bench.commit()
    bench.gateway.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_transaction_without_a_response_is_resent_and_happens_once(bench: Bench) -> None:
    """
    The second response tells that it happened.
    """
    ended = bench.commit()
    first = bench.gateway.waiting[0].message
    bench.gateway.lose_answer()
    assert ended == []
    bench.later()
    assert bench.gateway.waiting[0].message == first
    bench.gateway.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]
    # And the store continues from there.
    ended = bench.commit(batch((2, 2), b"n"))
    bench.gateway.answer()
    assert ended == [None]


def test_lost_message_is_sent_again(bench: Bench) -> None:
    """
    If the first message arrives late, it changes nothing.
    """
    ended = bench.commit()
    bench.gateway.lose()
    bench.later()
    bench.gateway.answer()
    assert ended == [None]
    bench.gateway.arrive()
    assert bench.moved == [(1, 1), (2, 2)]


def test_lost_response_of_a_transaction_is_found_after_others_moved(bench: Bench) -> None:
    ended = bench.commit()
    bench.gateway.lose_answer()
    now(bench.other.read())
    now(bench.other.commit(batch((2, 2), b"r")))
    bench.later()
    bench.gateway.answer()
    assert ended == [None]
    # A batch on a cursor that is known to be old fails without asking etcd.
    (conflict,) = bench.commit(batch((2, 2), b"n"))
    assert isinstance(conflict, Conflict)
    assert conflict.cursor == (3, 0)


def test_node_that_loses_the_race_learns_the_cursor(bench: Bench) -> None:
    ended = bench.commit()
    now(bench.other.commit(OTHER))
    bench.gateway.answer()
    (conflict,) = ended
    assert isinstance(conflict, Conflict)
    assert (conflict.cursor, conflict.used) == ((1, 1), {})
    assert bench.moved == [(1, 1)]


def test_last_batch_key_shows_that_a_transaction_never_happens(bench: Bench) -> None:
    """
    The cursor has moved and the last-batch key has not.
    """
    ended = bench.commit()
    bench.gateway.lose()
    now(bench.other.commit(OTHER))
    bench.later()
    bench.gateway.answer()
    assert isinstance(ended[0], Conflict)
    bench.gateway.arrive()
    assert bench.moved == [(1, 1)]


def test_outcome_without_a_response_is_unknown_after_the_deadline(bench: Bench) -> None:
    """
    The store continues: the late message and the next batch exclude each other.
    """
    ended = bench.commit()
    while not ended:
        assert bench.clock.seconds() <= CALL_TIMEOUT_SECONDS + 1
        bench.gateway.lose()
        bench.later()
    assert isinstance(ended[0], OutcomeUnknown)
    again = bench.commit(OTHER)
    bench.gateway.arrive()
    bench.gateway.answer()
    assert isinstance(again[0], Conflict)
    assert bench.moved == [(1, 1), (2, 2)]


def test_late_message_after_the_next_batch_changes_nothing(bench: Bench) -> None:
    ended = bench.commit()
    while not ended:
        bench.gateway.lose()
        bench.later()
    again = bench.commit(OTHER)
    bench.gateway.answer()
    assert again == [None]
    while bench.gateway.loose:
        bench.gateway.arrive()
    assert bench.moved == [(1, 1)]


def test_batch_without_a_connection_did_not_happen(bench: Bench) -> None:
    ended = bench.commit()
    while not ended:
        bench.gateway.lose(sent=False)
        bench.later()
    assert isinstance(ended[0], Refusal)


def test_batch_that_etcd_refuses_did_not_happen(bench: Bench) -> None:
    ended = bench.commit()
    bench.gateway.fail(CallRefused(7, "permission denied"))
    assert isinstance(ended[0], Refusal)
    assert "permission denied" in str(ended[0])


def test_batch_that_is_refused_at_the_second_try_may_have_happened(bench: Bench) -> None:
    ended = bench.commit()
    bench.gateway.lose_answer()
    while not ended:
        bench.later()
        if bench.gateway.waiting:
            bench.gateway.fail(CallRefused(7, "permission denied"))
    assert isinstance(ended[0], OutcomeUnknown)


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


def test_transaction_that_fills_the_space_of_etcd_has_happened(bench: Bench) -> None:
    """
    The store reads that it happened, although etcd refused it.
    """
    bench.etcd.filling = True
    ended = bench.commit()
    bench.gateway.answer()
    bench.gateway.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_transaction_that_fills_the_space_is_unknown_until_it_is_read(bench: Bench) -> None:
    bench.etcd.filling = True
    ended = bench.commit()
    bench.gateway.answer()
    bench.gateway.lose()
    bench.later()
    # The copy is refused too, without having happened.
    bench.gateway.answer()
    bench.gateway.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_outcome_without_space_is_unknown_while_a_copy_may_arrive(bench: Bench) -> None:
    """
    The copy may take effect when there is space again.
    """
    ended = bench.commit()
    bench.gateway.lose()
    bench.etcd.alarmed = True
    while not ended:
        bench.later()
        while bench.gateway.waiting:
            bench.gateway.answer()
    assert isinstance(ended[0], OutcomeUnknown)


def test_batch_that_lost_the_race_never_happens_even_without_space(bench: Bench) -> None:
    ended = bench.commit()
    now(bench.other.commit(OTHER))
    bench.etcd.alarmed = True
    bench.gateway.answer()
    bench.gateway.answer()
    assert isinstance(ended[0], Conflict)
    assert bench.moved == [(1, 1)]


def test_outcome_is_unknown_when_the_last_batch_key_has_ended(bench: Bench) -> None:
    """
    Its lease ended. The node makes another last-batch key.
    """
    ended = bench.commit()
    bench.gateway.lose_answer()
    bench.etcd.expire("1")
    bench.later()
    bench.gateway.answer()
    assert isinstance(ended[0], OutcomeUnknown)
    again = bench.commit(batch((2, 2), b"n"))
    for _ in range(3):
        bench.gateway.answer()
    assert again == [None]
    assert bench.moved == [(1, 1), (2, 2), (3, 3)]


def test_node_continues_when_its_last_batch_key_ended_during_sleep(bench: Bench) -> None:
    bench.etcd.expire("1")
    ended = bench.commit()
    bench.gateway.answer()
    assert isinstance(ended[0], Conflict)
    ended = bench.commit()
    for _ in range(3):
        bench.gateway.answer()
    assert ended == [None]


def test_idempotency_key_of_another_node_makes_the_batch_fail(bench: Bench) -> None:
    """
    The conflict tells the first use of the key, also if the cursor has been read since.
    """
    now(bench.other.commit(batch((0, 0), b"p", b"k")))
    bench.gateway.open = True
    now(bench.store.read())
    bench.gateway.open = False
    ended = bench.commit(batch((1, 0), b"n", b"k"))
    bench.gateway.answer()
    (conflict,) = ended
    assert isinstance(conflict, Conflict)
    assert conflict.used == {b"k": KeyUse(Transition.PREVIOUS, 1, 0)}
    assert bench.moved == [(1, 0)]


def test_outcome_with_a_used_key_is_unknown_while_a_copy_may_arrive(bench: Bench) -> None:
    """
    The copy could take effect when that key is forgotten.
    """
    now(bench.other.commit(batch((0, 0), b"p", b"k")))
    bench.gateway.open = True
    now(bench.store.read())
    bench.gateway.open = False
    ended = bench.commit(batch((1, 0), b"n", b"k"))
    bench.gateway.lose()
    bench.later()
    bench.gateway.answer()
    assert isinstance(ended[0], OutcomeUnknown)


def test_late_message_does_not_remove_keys_that_were_used_again(bench: Bench) -> None:
    etcd, clock = bench.etcd, bench.clock
    gateway = FakeGateway(etcd, clock)
    forgetful = EtcdStore(gateway, "p/", kept_keys=1)
    assert now(forgetful.open()) == (0, 0)
    state = (0, 0)
    for number in range(127):
        taken = batch(state, b"n", b"%d" % number)
        now(forgetful.commit(taken))
        state = taken.after
    now(forgetful.commit(batch(state, b"n", b"last")))
    now(forgetful._removing_keys)
    late = next(change for change in etcd.changes if len(change["success"]) > 100)
    now(bench.other.read())
    assert now(bench.other.recall(b"0")) is None
    now(bench.other.commit(batch((128, 128), b"p", b"0")))
    etcd.apply("kv/txn", late)
    assert now(bench.other.recall(b"0")) == KeyUse(Transition.PREVIOUS, 129, 127)


def _open(etcd: FakeEtcd) -> Deferred[Cursor]:
    return EtcdStore(FakeGateway(etcd, Clock()), "p/", name="etcd at x").open()


def test_store_of_another_format_is_refused_and_left_alone(bench: Bench) -> None:
    from base64 import b64encode  # noqa: PLC0415 for this test alone

    value = b'{"format": 2, "revision": 1, "position": 1, "keys": 0}'
    bench.etcd.values[b"p/cursor"].value = b64encode(value).decode()
    with pytest.raises(StoreDamaged, match=r"p/cursor: it has format 2, .* knows 1"):
        now(_open(bench.etcd))


@pytest.mark.parametrize("value", ["bm9uc2Vuc2U=", "e30=", "W10="])
def test_cursor_of_another_program_is_refused(bench: Bench, value: str) -> None:
    bench.etcd.values[b"p/cursor"].value = value
    with pytest.raises(StoreDamaged, match="not of this program"):
        now(_open(bench.etcd))


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
        now(_open(bench.etcd))
    del bench.etcd.values[b"p/journal/%020d" % 1]
    assert [key for key in bench.etcd.values if key.startswith(b"p/operations/")]
    assert now(_open(bench.etcd)) == (0, 0)


def test_reused_etcd_revision_with_another_cursor_takes_no_batch(bench: Bench) -> None:
    """
    After a restore, etcd's revision that an idle node knows comes again with another batch.
    """
    snapshot = bench.etcd.snapshot()
    now(bench.other.commit(batch((0, 0), b"nnn")))
    bench.gateway.open = True
    assert now(bench.store.read()) == (3, 3)
    bench.etcd.restore(snapshot)
    third = EtcdStore(FakeGateway(bench.etcd, bench.clock), "p/")
    now(third.open())
    # The new last-batch key took the revision of the lost batch; go back to that revision.
    bench.etcd.revision = snapshot[0]
    now(third.commit(batch((0, 0), b"p")))
    assert bench.store._known_record.mod_revision == third._known_record.mod_revision
    with pytest.raises(Conflict) as conflict:
        now(bench.store.commit(batch((3, 3), b"n")))
    assert conflict.value.cursor == (1, 0)
    assert now(third.read()) == (1, 0)


def _watched(store: EtcdStore) -> list[tuple[int, int]]:
    """
    Return a list that gets the cursor each time that it has gone back.
    """
    reported: list[tuple[int, int]] = []
    store.watch(lambda _: None, reported.append)
    return reported


@pytest.mark.parametrize("bump", [0, 1000])
@pytest.mark.parametrize("steps", [0, 2])
def test_restored_etcd_is_reported_by_a_read(bench: Bench, bump: int, steps: int) -> None:
    """
    A read that shows an earlier revision is reported once, whatever happened since.
    """
    now(bench.other.commit(batch((0, 0), b"n")))
    snapshot = bench.etcd.snapshot()
    now(bench.other.commit(batch((1, 1), b"nnn")))
    bench.gateway.open = True
    reported = _watched(bench.store)
    assert now(bench.store.read()) == (4, 4)
    bench.etcd.restore(snapshot, bump)
    now(bench.other.read())
    if steps:
        now(bench.other.commit(batch((1, 1), steps * b"n")))
    with capturedLogs() as logs:
        for _ in range(2):
            assert now(bench.store.read()) == (1 + steps, 1 + steps)
    assert reported == [(1 + steps, 1 + steps)]
    (line,) = [
        formatEvent(event) for event in logs if event["log_level"].name == "critical"
    ]
    assert line is not None
    assert f"from revision 4 to {1 + steps}" in line
    assert bench.store.went_back_count == 1


@pytest.mark.parametrize("bump", [0, 1000])
def test_restored_etcd_is_reported_by_a_commit(bench: Bench, bump: int) -> None:
    """
    A batch that meets an earlier revision did not happen, and the next one follows from it.
    """
    snapshot = bench.etcd.snapshot()
    bench.gateway.open = True
    reported = _watched(bench.store)
    now(bench.store.commit(FIRST))
    bench.etcd.restore(snapshot, bump)
    with pytest.raises(Conflict) as conflict:
        now(bench.store.commit(batch((2, 2), b"n")))
    assert conflict.value.cursor == (0, 0)
    assert reported == [(0, 0)]
    now(bench.store.commit(batch((0, 0), b"p")))
    assert bench.moved == [(1, 0)]


def test_restored_etcd_is_reported_by_the_watch(bench: Bench) -> None:
    """
    News of a higher etcd revision with a lower revision of the cursor is a restore.
    """
    snapshot = bench.etcd.snapshot()
    bench.gateway.open = True
    reported = _watched(bench.store)
    now(bench.store.commit(batch((0, 0), b"nnn")))
    bench.etcd.restore(snapshot, 1000)
    now(bench.other.commit(batch((0, 0), b"n")))
    bench.gateway.miss()
    bench.gateway.hear()
    assert reported == [(1, 1)]


def test_old_state_read_from_a_slow_member_is_no_restore(bench: Bench) -> None:
    """
    A read that shows an older state than the node knows is checked through etcd's log.
    """
    old = bench.etcd.apply("kv/range", messages.get(LAYOUT.cursor))
    bench.gateway.open = True
    reported = _watched(bench.store)
    now(bench.store.commit(FIRST))
    bench.gateway.open = False
    revisions: list[object] = []
    bench.store.read().addCallback(revisions.append)
    bench.gateway.waiting[0].answer = old
    bench.gateway.answer()
    bench.gateway.answer()
    assert revisions == [(2, 2)]
    assert reported == []


def test_cursor_of_an_emptied_etcd_is_not_created_by_a_running_node(bench: Bench) -> None:
    """
    A node whose cursor has gone takes no batch and shows no state, and says what to do.
    """
    bench.gateway.open = True
    bench.etcd.values.clear()
    with pytest.raises(Refusal, match="etcd has lost the key p/cursor; restore etcd"):
        now(bench.store.read())
    with pytest.raises(Refusal, match="etcd has lost the key p/cursor; restore etcd"):
        now(bench.store.commit(FIRST))
    assert not bench.etcd.values.keys() & {b"p/cursor"}


def test_damaged_cursor_is_one_refusal_and_no_failure(bench: Bench) -> None:
    """
    A record that cannot be read refuses reads and batches, and the watch passes it over.
    """
    bench.gateway.open = True
    _watched(bench.store)
    bench.etcd.apply(
        "kv/txn",
        {"success": [{"request_put": {"key": text(b"p/cursor"), "value": text(b"{}")}}]},
    )
    bench.gateway.hear()
    with pytest.raises(Refusal, match="not of this program"):
        now(bench.store.read())
    with pytest.raises(Refusal, match="not of this program"):
        now(bench.store.commit(FIRST))
    with pytest.raises(Refusal, match="not of this program"):
        now(bench.store.history(ABOVE_ALL, 1))


def test_check_fails_if_a_batch_would_be_refused(bench: Bench) -> None:
    """
    A check changes nothing, and is refused where a batch would be.
    """
    bench.gateway.open = True
    before = deepcopy(bench.etcd.values)
    assert now(bench.store.probe()) is None
    assert bench.etcd.values == before
    bench.etcd.alarmed = True
    assert "space exceeded; compact" in str(now(bench.store.probe()))
    bench.etcd.alarmed, bench.etcd.read_only = False, True
    assert "permission denied" in str(now(bench.store.probe()))


def test_check_is_not_sent_right_after_a_batch(bench: Bench) -> None:
    """
    A batch that was taken a moment ago shows that etcd takes batches.
    """
    bench.gateway.open = True
    now(bench.store.commit(FIRST))
    bench.gateway.open = False
    assert now(bench.store.probe()) is None
    bench.clock.advance(1)
    bench.store.probe()
    assert len(bench.gateway.waiting) == 1


def test_store_without_create_refuses_an_empty_etcd() -> None:
    """
    With C{--no-create} nothing is created, and the message names the verb that creates.
    """
    etcd = FakeEtcd()
    with pytest.raises(StoreError, match=r"has no cursor with the prefix p/.*create"):
        now(EtcdStore(FakeGateway(etcd, Clock()), "p/", create=False).open())
    assert etcd.values == {}


def test_node_that_must_not_create_opens_an_existing_cursor() -> None:
    etcd = FakeEtcd()

    def store(**given: Any) -> EtcdStore:
        return EtcdStore(FakeGateway(etcd, Clock()), "p/", **given)

    now(store().create())
    with pytest.raises(StoreError, match="has a cursor with the prefix p/ already"):
        now(store().create())
    assert now(store(create=False).open()) == (0, 0)


def test_later_worker_creates_no_cursor_in_an_emptied_etcd() -> None:
    board = scoreboard.create()
    claim = StoreClaim(board)
    now(EtcdStore(FakeGateway(FakeEtcd(), Clock()), "p/", claim=claim).open())
    with pytest.raises(StoreError, match="has no cursor with the prefix p/"):
        now(EtcdStore(FakeGateway(FakeEtcd(), Clock()), "p/", claim=claim).open())
    os.close(board)


def test_creating_a_cursor_is_a_warning_and_finding_one_is_not() -> None:
    etcd = FakeEtcd()
    for expected in (["warn"], []):
        with capturedLogs() as logs:
            now(_open(etcd))
        assert [event["log_level"].name for event in logs] == expected


def test_journal_length_is_kept_with_the_cursor() -> None:
    """
    All nodes keep as many transitions as the node that created the cursor said.
    """
    etcd, clock = FakeEtcd(), Clock()
    first_store, second_store = (
        EtcdStore(FakeGateway(etcd, clock), "p/", journal=length) for length in (3, 500)
    )
    now(first_store.open())
    with capturedLogs() as logs:
        now(second_store.open())
    (event,) = logs
    assert (formatEvent(event) or "").startswith("--journal 500 is not used")
    state = (0, 0)
    for _ in range(200):
        taken = batch(state, b"n")
        now(second_store.commit(taken))
        state = taken.after
    assert len(now(second_store.history(ABOVE_ALL, 1000))) == 3
    rows = [key for key in etcd.values if key.startswith(b"p/journal/")]
    assert len(rows) < 3 + 128


def test_store_for_a_user_who_may_only_read_is_open_for_reads(bench: Bench) -> None:
    """
    A node whose user may not write opens, reads, and refuses batches with etcd's words.
    """
    bench.etcd.read_only = True
    store = EtcdStore(FakeGateway(bench.etcd, bench.clock), "p/")
    assert now(store.open()) == (0, 0)
    with pytest.raises(Refusal, match="permission denied"):
        now(store.commit(FIRST))


def test_read_that_is_not_answered_ends_within_five_seconds(bench: Bench) -> None:
    """
    A read is repeated until another attempt could take longer than that.
    """
    ended: list[object] = []
    bench.store.read().addErrback(lambda failure: ended.append(failure.value))
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
    bench.gateway.open = True
    reported = _watched(bench.store)
    fresh = EtcdStore(FakeGateway(bench.etcd, bench.clock), "p/")
    assert now(fresh.advance(1000)) == (1000, 2)
    assert not [key for key in bench.etcd.values if key.startswith(b"p/operations/")]
    assert now(fresh.open()) == (1000, 2)
    now(fresh.commit(batch((1000, 2), b"n")))
    assert [row.revision for row in now(fresh.history(ABOVE_ALL, 2))] == [1001, 2]
    assert now(bench.store.read()) == (1001, 3)
    assert reported == []


@pytest.mark.parametrize("revision", [1, 2])
def test_cursor_is_not_advanced_to_a_revision_that_it_had(
    bench: Bench, revision: int
) -> None:
    """
    The verb refuses a revision that is not higher, and names the present one.
    """
    now(bench.other.commit(batch((0, 0), b"nn")))
    with pytest.raises(StoreError, match=r"at revision 2; choose a higher one"):
        now(bench.other.advance(revision))


def test_inspection_names_the_cursor_or_why_no_batch_is_taken(bench: Bench) -> None:
    """
    An inspection opens nothing, creates nothing, and fails where a batch would.
    """
    store = EtcdStore(FakeGateway(bench.etcd, bench.clock), "p/")
    assert now(store.inspect()) == ["the cursor is at revision 0, position 0"]
    empty = EtcdStore(FakeGateway(bench.etcd, bench.clock), "q/")
    assert now(empty.inspect()) == ["no cursor with the prefix q/"]
    bench.etcd.read_only = True
    with pytest.raises(StoreError, match="permission denied"):
        now(store.inspect())


def test_one_of_two_nodes_creates_the_store_and_both_have_it() -> None:
    etcd, clock = FakeEtcd(), Clock()
    gateways = [FakeGateway(etcd, clock, open=False) for _ in range(2)]
    opened = [EtcdStore(gateway, "p/").open() for gateway in gateways]
    for _ in range(5):
        for gateway in gateways:
            gateway.answer()
    assert [now(opening) for opening in opened] == [(0, 0), (0, 0)]


def test_revision_beyond_the_highest_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreError, match=r"^revision 9007199254740992: 9"):
        now(bench.other.advance(2**53))
    assert now(bench.other.advance(2**53 - 1)) == (2**53 - 1, 0)
    node = EtcdStore(FakeGateway(bench.etcd, bench.clock), "p/")
    now(node.open())
    now(node.commit(batch((2**53 - 1, 0), b"n")))
    assert now(node.read()) == (2**53, 1)


def test_batch_beyond_the_highest_position_is_refused(bench: Bench) -> None:
    cursor = {
        "key": text(LAYOUT.cursor),
        "value": encode_cursor(Cursor(7, 10**8), 0, "", 9),
    }
    bench.etcd.apply("kv/txn", {"success": [{"request_put": cursor}]})
    now(bench.other.read())
    with pytest.raises(Refusal, match="position 100000000 is the highest"):
        now(bench.other.commit(batch((7, 10**8), b"n")))
    now(bench.other.commit(batch((7, 10**8), b"r")))
