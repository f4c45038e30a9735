"""
The store of many nodes, when answers do not come.
"""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pexservice.core.cursor import Transition
from pexservice.stores.etcd.caller import DEADLINE, Refused
from pexservice.stores.etcd.store import EtcdStore
from pexservice.stores.interface import (
    Batch,
    Conflict,
    NotTaken,
    OutcomeUnknown,
    Remembered,
    StoreDamaged,
    StoreUnusable,
)
from tests.support.fake_etcd import FakeCaller, FakeEtcd
from tests.support.fakes import now
from tests.unit.stores.test_contract import batch

FIRST = batch((0, 0), b"nn", b"k")
OTHER = batch((0, 0), b"n")


class Bench:
    """
    A node whose messages the test has in its hands, and another one beside it.
    """

    def __init__(self) -> None:
        self.etcd, self.clock = FakeEtcd(), Clock()
        self.caller = FakeCaller(self.etcd, self.clock)
        self.store = EtcdStore(self.caller, "p/")
        self.other = EtcdStore(FakeCaller(self.etcd, self.clock), "p/")
        for each in (self.store, self.other):
            assert now(each.open()) == (0, 0)
        self.caller.open = False

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
        rows = now(self.other.history(None, 100))
        return [(row.revision, row.position) for row in reversed(rows)]


@pytest.fixture
def bench() -> Bench:
    """
    Provide a bench with both nodes open, and a cursor that has not moved yet.
    """
    return Bench()


def test_answered(bench: Bench) -> None:
    """
    An answer ends the commit.
    """
    ended = bench.commit()
    bench.caller.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_answer_lost(bench: Bench) -> None:
    """
    A transaction whose answer was lost is sent again, and happens once.

    The second answer tells that the transaction happened.
    """
    ended = bench.commit()
    first = bench.caller.waiting[0].message
    bench.caller.lose_answer()
    assert ended == []
    bench.later()
    assert bench.caller.waiting[0].message == first
    bench.caller.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]
    # And the store goes on from there.
    ended = bench.commit(batch((2, 2), b"n"))
    bench.caller.answer()
    assert ended == [None]


def test_message_lost(bench: Bench) -> None:
    """
    A message that did not arrive is sent again.

    If the first message arrives when it is not needed any more, it changes nothing.
    """
    ended = bench.commit()
    bench.caller.lose()
    bench.later()
    bench.caller.answer()
    assert ended == [None]
    bench.caller.arrive()
    assert bench.moved == [(1, 1), (2, 2)]


def test_happened_and_others_followed(bench: Bench) -> None:
    """
    A transaction whose answer was lost did happen, also if others moved the cursor since.
    """
    ended = bench.commit()
    bench.caller.lose_answer()
    now(bench.other.read())
    now(bench.other.commit(batch((2, 2), b"r")))
    bench.later()
    bench.caller.answer()
    assert ended == [None]
    # A batch on a cursor that is known to be old fails without asking etcd.
    (conflict,) = bench.commit(batch((2, 2), b"n"))
    assert isinstance(conflict, Conflict)
    assert (conflict.revision, conflict.position) == (3, 0)


def test_others_were_faster(bench: Bench) -> None:
    """
    A node that loses the race learns where the cursor is.
    """
    ended = bench.commit()
    now(bench.other.commit(OTHER))
    bench.caller.answer()
    (conflict,) = ended
    assert isinstance(conflict, Conflict)
    assert (conflict.revision, conflict.position, conflict.used) == (1, 1, {})
    assert bench.moved == [(1, 1)]


def test_never_happened(bench: Bench) -> None:
    """
    The operation key shows that a transaction without an answer never happens.

    The transaction has surely not happened, and never will, when the cursor has moved and
    the operation key has not.
    """
    ended = bench.commit()
    bench.caller.lose()
    now(bench.other.commit(OTHER))
    bench.later()
    bench.caller.answer()
    assert isinstance(ended[0], Conflict)
    bench.caller.arrive()
    assert bench.moved == [(1, 1)]


def test_no_answer_at_all(bench: Bench) -> None:
    """
    The outcome of a transaction without an answer is unknown after the deadline.

    The store goes on: the late message and the next batch exclude each other.
    """
    ended = bench.commit()
    while not ended:
        assert bench.clock.seconds() <= DEADLINE + 1
        bench.caller.lose()
        bench.later()
    assert isinstance(ended[0], OutcomeUnknown)
    again = bench.commit(OTHER)
    bench.caller.arrive()
    bench.caller.answer()
    assert isinstance(again[0], Conflict)
    assert bench.moved == [(1, 1), (2, 2)]


def test_late_after_the_next(bench: Bench) -> None:
    """
    When the next batch happens first, the late message changes nothing.
    """
    ended = bench.commit()
    while not ended:
        bench.caller.lose()
        bench.later()
    again = bench.commit(OTHER)
    bench.caller.answer()
    assert again == [None]
    while bench.caller.loose:
        bench.caller.arrive()
    assert bench.moved == [(1, 1)]


def test_never_sent(bench: Bench) -> None:
    """
    A batch for which no connection could be made did not happen.
    """
    ended = bench.commit()
    while not ended:
        bench.caller.lose(sent=False)
        bench.later()
    assert isinstance(ended[0], NotTaken)


def test_refused(bench: Bench) -> None:
    """
    A batch that etcd refuses did not happen.
    """
    ended = bench.commit()
    bench.caller.fail(Refused(7, "permission denied"))
    assert isinstance(ended[0], NotTaken)
    assert "permission denied" in str(ended[0])


def test_refused_at_last(bench: Bench) -> None:
    """
    A batch that etcd refuses the second time may have happened the first time.
    """
    ended = bench.commit()
    bench.caller.lose_answer()
    while not ended:
        bench.later()
        if bench.caller.waiting:
            bench.caller.fail(Refused(7, "permission denied"))
    assert isinstance(ended[0], OutcomeUnknown)


def test_no_space(bench: Bench) -> None:
    """
    A batch does not happen when etcd has no space, which the store reads and tells at once.
    """
    bench.etcd.alarmed = True
    ended = bench.commit()
    bench.caller.answer()
    assert ended == []
    bench.caller.answer()
    assert isinstance(ended[0], NotTaken)
    assert "space exceeded" in str(ended[0])
    assert bench.moved == []


def test_space_runs_out(bench: Bench) -> None:
    """
    A transaction that fills etcd's space is refused, but the store reads that it happened.
    """
    bench.etcd.filling = True
    ended = bench.commit()
    bench.caller.answer()
    bench.caller.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_space_runs_out_unseen(bench: Bench) -> None:
    """
    The outcome of a transaction that fills etcd's space is not known until it can be read.
    """
    bench.etcd.filling = True
    ended = bench.commit()
    bench.caller.answer()
    bench.caller.lose()
    bench.later()
    # The copy is refused too, without having happened.
    bench.caller.answer()
    bench.caller.answer()
    assert ended == [None]
    assert bench.moved == [(1, 1), (2, 2)]


def test_no_space_and_copies_under_way(bench: Bench) -> None:
    """
    Without space in etcd, the outcome is unknown while a copy of the message is under way.

    The copy may take effect when there is space again.
    """
    ended = bench.commit()
    bench.caller.lose()
    bench.etcd.alarmed = True
    while not ended:
        bench.later()
        while bench.caller.waiting:
            bench.caller.answer()
    assert isinstance(ended[0], OutcomeUnknown)


def test_no_space_and_others_were_faster(bench: Bench) -> None:
    """
    A batch that lost the race surely never happens, whatever etcd says of its space.
    """
    ended = bench.commit()
    now(bench.other.commit(OTHER))
    bench.etcd.alarmed = True
    bench.caller.answer()
    bench.caller.answer()
    assert isinstance(ended[0], Conflict)
    assert bench.moved == [(1, 1)]


def test_operation_key_gone(bench: Bench) -> None:
    """
    When the operation key's lease ends, the outcome of the batch before is unknown.

    The node makes another operation key.
    """
    ended = bench.commit()
    bench.caller.lose_answer()
    bench.etcd.expire("1")
    bench.later()
    bench.caller.answer()
    assert isinstance(ended[0], OutcomeUnknown)
    again = bench.commit(batch((2, 2), b"n"))
    for _ in range(3):
        bench.caller.answer()
    assert again == [None]
    assert bench.moved == [(1, 1), (2, 2), (3, 3)]


def test_operation_key_gone_before(bench: Bench) -> None:
    """
    A node whose operation key ended while it slept for a day goes on.
    """
    bench.etcd.expire("1")
    ended = bench.commit()
    bench.caller.answer()
    assert isinstance(ended[0], Conflict)
    ended = bench.commit()
    for _ in range(3):
        bench.caller.answer()
    assert ended == [None]


def test_key_used_elsewhere(bench: Bench) -> None:
    """
    An idempotency key that another node has used makes the batch fail.

    The conflict tells what the key did, also where the cursor has been read since.
    """
    now(bench.other.commit(batch((0, 0), b"p", b"k")))
    bench.caller.open = True
    now(bench.store.read())
    bench.caller.open = False
    ended = bench.commit(batch((1, 0), b"n", b"k"))
    bench.caller.answer()
    (conflict,) = ended
    assert isinstance(conflict, Conflict)
    assert conflict.used == {b"k": Remembered(Transition.PREVIOUS, 1, 0)}
    assert bench.moved == [(1, 0)]


def test_key_used_and_copies_under_way(bench: Bench) -> None:
    """
    The outcome of a batch with a used key is unknown while a copy is under way.

    The copy could take effect when that key is forgotten.
    """
    now(bench.other.commit(batch((0, 0), b"p", b"k")))
    bench.caller.open = True
    now(bench.store.read())
    bench.caller.open = False
    ended = bench.commit(batch((1, 0), b"n", b"k"))
    bench.caller.lose()
    bench.later()
    bench.caller.answer()
    assert isinstance(ended[0], OutcomeUnknown)


def test_late_trimming(bench: Bench) -> None:
    """
    A message that forgets keys and arrives late leaves alone the keys that were used again.
    """
    etcd, clock = bench.etcd, bench.clock
    caller = FakeCaller(etcd, clock)
    forgetful = EtcdStore(caller, "p/", kept_keys=1)
    assert now(forgetful.open()) == (0, 0)
    state = (0, 0)
    for number in range(127):
        taken = batch(state, b"n", b"%d" % number)
        now(forgetful.commit(taken))
        state = (taken.revision, taken.position)
    now(forgetful.commit(batch(state, b"n", b"last")))
    now(forgetful.trimmed())
    late = next(each for each in etcd.changes if len(each["success"]) > 100)
    now(bench.other.read())
    assert now(bench.other.recall(b"0")) is None
    now(bench.other.commit(batch((128, 128), b"p", b"0")))
    etcd.apply("kv/txn", late)
    assert now(bench.other.recall(b"0")) == Remembered(Transition.PREVIOUS, 129, 127)


def _open(etcd: FakeEtcd) -> Deferred[tuple[int, int]]:
    return EtcdStore(FakeCaller(etcd, Clock()), "p/", name="etcd at x").open()


def test_newer_format(bench: Bench) -> None:
    """
    A store of another format is refused by its number and left alone.
    """
    from base64 import b64encode  # noqa: PLC0415 for this test alone

    value = b'{"format": 2, "revision": 1, "position": 1, "keys": 0}'
    bench.etcd.values[b"p/cursor"].value = b64encode(value).decode()
    with pytest.raises(StoreDamaged, match=r"p/cursor: it has format 2, .* knows 1"):
        now(_open(bench.etcd))


@pytest.mark.parametrize("value", ["bm9uc2Vuc2U=", "e30=", "W10="])
def test_foreign(bench: Bench, value: str) -> None:
    """
    A cursor that another program wrote is refused.
    """
    bench.etcd.values[b"p/cursor"].value = value
    with pytest.raises(StoreDamaged, match="not of this program"):
        now(_open(bench.etcd))


def test_cursor_lost(bench: Bench) -> None:
    """
    A cursor that is missing beside other keys is not made anew.
    """
    del bench.etcd.values[b"p/cursor"]
    with pytest.raises(StoreDamaged, match="no cursor"):
        now(_open(bench.etcd))
    with pytest.raises(StoreUnusable):
        now(_open(bench.etcd))


def test_two_make_it_at_once() -> None:
    """
    Of two nodes that find nothing, one makes the store, and both have it.
    """
    etcd, clock = FakeEtcd(), Clock()
    callers = [FakeCaller(etcd, clock, open=False) for _ in range(2)]
    opened = [EtcdStore(each, "p/").open() for each in callers]
    for _ in range(5):
        for caller in callers:
            caller.answer()
    assert [now(each) for each in opened] == [(0, 0), (0, 0)]
