"""
The contract of every store, tested with each kind of store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from zope.interface.verify import verifyObject

from pexservice.core.cursor import Cursor, Transition, position_after_all
from pexservice.stores.interface import Batch, HistoryEntry, IExclusiveStore, IStore
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.lmdb.transaction import TRIM_SLACK
from pexservice.stores.lmdb.verify import verify
from pexservice.stores.remembered_keys import KeyUse, pack_use
from pexservice.stores.shared_interface import ISharedStore
from tests.support.fakes import ABOVE_ALL, MemoryStore, inline, now, replay
from tests.support.forms import amount

Maker = Callable[[], IStore]

#: How many keys and transitions each store is to keep.
KEPT = 10


def memory(_: Path) -> Maker:
    """
    Return a maker of the fake store, which has to keep the contract too.

    Other tests take the fake store for a store.
    """
    store = MemoryStore(kept_keys=KEPT, journal=KEPT)
    return lambda: store


def lmdb(path: Path) -> Maker:
    """
    Return a maker of LMDB stores, in a directory of the test's own.
    """
    return lambda: LmdbStore(
        Directory(str(path / "store")),
        inline(),
        kept_transitions=KEPT,
        verify=verify,
        kept_keys=KEPT,
    )


@pytest.fixture(params=[memory, lmdb])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    """
    Provide a maker of stores that all have the same data.
    """
    return cast(Maker, request.param(tmp_path))


@pytest.fixture
def store(make: Maker) -> Iterator[IStore]:
    """
    Provide a new store, open.
    """
    store = make()
    assert now(store.open()) == (0, 0)
    yield store
    now(store.close())


def batch(before: tuple[int, int], transitions: bytes, *keys: bytes) -> Batch:
    """
    Return the batch of C{transitions} after the cursor C{before}.

    The first transitions have C{keys}, one each.
    """
    revision, position = before
    used = {
        key: pack_use(
            transitions[count - 1 : count],
            revision + count,
            position_after_all(position, transitions[:count]),
        )
        for count, key in enumerate(keys, 1)
    }
    after = Cursor(revision + len(transitions), position_after_all(position, transitions))
    time_ns = 1_700_000_000_000_000_000 + revision
    return Batch(Cursor(*before), transitions, after, time_ns, used)


@contextmanager
def recalling(store: IStore) -> Iterator[Callable[[bytes], KeyUse | None]]:
    """
    Open C{store}, and provide the function that finds the first use of a key.
    """
    now(store.open())
    if IExclusiveStore.providedBy(store):
        yield store.remembered_keys.find
    else:
        yield lambda key: now(cast(ISharedStore, store).recall(key))
    now(store.close())


def test_store_provides_every_method_of_its_interface(store: IStore) -> None:
    """
    With the arguments of the interface.
    """
    assert verifyObject(
        IExclusiveStore if IExclusiveStore.providedBy(store) else ISharedStore, store
    )


def test_committed_transitions_are_there_after_a_reopening(
    make: Maker, store: IStore
) -> None:
    first = batch((0, 0), b"nnnp")
    second = batch(first.after, b"n")
    now(store.commit(first))
    now(store.commit(second))
    now(store.close())
    again = make()
    assert now(again.open()) == (5, 3)
    assert now(again.history(ABOVE_ALL, 100)) == [*replay(first), *replay(second)][::-1]
    now(again.close())


def test_history_comes_newest_first_across_the_rows_of_batches(store: IStore) -> None:
    """
    At most C{limit} transitions, from below the revision C{before}.
    """
    assert now(store.history(ABOVE_ALL, 100)) == []
    first = batch((0, 0), b"nnp")
    second = batch(first.after, b"rnn")
    now(store.commit(first))
    now(store.commit(second))
    rows: list[HistoryEntry] = [*replay(first), *replay(second)][::-1]
    assert now(store.history(ABOVE_ALL, 4)) == rows[:4]
    assert now(store.history(5, 100)) == rows[2:]
    assert now(store.history(4, 2)) == rows[3:5]
    assert now(store.history(1, 100)) == []


def test_history_reaches_exactly_as_far_back_as_it_is_kept(store: IStore) -> None:
    """
    Also within a batch, and when the oldest rows are removed.
    """
    state = (0, 0)
    for _ in range(2 * TRIM_SLACK):
        taken = batch(state, b"nn")
        now(store.commit(taken))
        state = taken.after
        assert [row.revision for row in now(store.history(ABOVE_ALL, 1000))] == [
            *range(state[0], max(state[0] - KEPT, 0), -1)
        ]
    long = batch(state, b"n" * (3 * KEPT))
    now(store.commit(long))
    assert now(store.history(ABOVE_ALL, 1000)) == [*replay(long)][: -KEPT - 1 : -1]


def test_page_of_a_long_batch_equals_its_replay(store: IStore) -> None:
    long = batch((0, 0), b"npprnnp" * 1000)
    now(store.commit(long))
    rows = [*replay(long)][::-1]
    for before, limit in ((ABOVE_ALL, 1), (6_000, 3), (2, 5), (6_999, KEPT)):
        kept = [row for row in rows[:KEPT] if row.revision < before]
        assert now(store.history(before, limit)) == kept[:limit]


def test_opened_store_has_the_keys_with_what_their_first_use_did(
    make: Maker, store: IStore
) -> None:
    longest = b"~" * 255
    now(store.commit(batch((0, 0), b"np", b"one", longest)))
    now(store.commit(batch((2, 0), b"n", b"more")))
    now(store.close())
    with recalling(make()) as recall:
        assert recall(b"one") == KeyUse(Transition.NEXT, 1, 1)
        assert recall(longest) == KeyUse(Transition.PREVIOUS, 2, 0)
        assert recall(b"more") == KeyUse(Transition.NEXT, 3, 1)
        assert recall(b"two") is None


@pytest.mark.parametrize("size", amount(short=[1, 100], long=[1, 3, 100]))
def test_opened_store_has_the_newest_keys_and_few_others(
    make: Maker, store: IStore, size: int
) -> None:
    """
    However many keys a batch has.
    """
    state = (0, 0)
    names = [b"%d" % number for number in range(5 * TRIM_SLACK)]
    for first in range(0, len(names), size):
        part = names[first : first + size]
        taken = batch(state, b"n" * len(part), *part)
        now(store.commit(taken))
        state = taken.after
    now(store.close())
    with recalling(make()) as recall:
        remembered = [name for name in names if recall(name) is not None]
    assert remembered == names[-len(remembered) :]
    assert KEPT <= len(remembered) <= KEPT + TRIM_SLACK + 10 * max(size, 64)


def test_store_that_never_opened_can_be_closed(make: Maker) -> None:
    now(make().close())
