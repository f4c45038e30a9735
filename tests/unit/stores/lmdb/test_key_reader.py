"""
The look-up of idempotency keys between commits.
"""

from __future__ import annotations

from pathlib import Path

from pexservice.core.cursor import Transition
from pexservice.stores.interface import Remembered
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.executor import CommitExecutor, ExecutorPolicy
from pexservice.stores.lmdb.store import LmdbStore
from tests.support.fakes import Mailbox, now
from tests.support.inline_executor import inline
from tests.unit.stores.test_contract import batch, end

STEPS = 400


def store_in(path: Path, executor: CommitExecutor) -> LmdbStore:
    """
    Return an open store in C{path} that keeps only 10 transitions and 10 keys.
    """
    store = LmdbStore(Directory(str(path)), executor, journal=10, verify=None, kept_keys=10)
    now(store.open())
    return store


def test_sees_each_commit(tmp_path: Path) -> None:
    """
    A key is found as soon as its commit has ended.

    The reader had looked for the key before that commit.
    """
    store, state = store_in(tmp_path / "store", inline()), (0, 0)
    for number in range(5):
        key = b"%d" % number
        assert store.look_up(key) is None
        taken = batch(state, b"n", key)
        now(store.commit(taken))
        state = end(taken)
        assert store.look_up(key) == Remembered(Transition.NEXT, *state)
    now(store.close())


def test_sees_a_commit_of_the_thread(tmp_path: Path) -> None:
    """
    A key is found after its commit in the thread.

    The reader looked for the key while that commit was under way.
    """
    mailbox, policy = Mailbox(), ExecutorPolicy()
    policy.inline = False
    store = store_in(tmp_path / "store", CommitExecutor(mailbox, policy))
    done = store.commit(batch((0, 0), b"n", b"key"))
    store.look_up(b"key")
    mailbox.take()
    now(done)
    assert store.look_up(b"key") == Remembered(Transition.NEXT, 1, 1)
    now(store.close())


def test_holds_no_pages_back(tmp_path: Path) -> None:
    """
    A store does not grow more because its keys are looked up between commits.

    Such a store does not name itself as a reader.
    """
    sizes = []
    for name, looks in (("asked", True), ("not asked", False)):
        store, state = store_in(tmp_path / name, inline()), (0, 0)
        for number in range(STEPS):
            if looks:
                assert store.look_up(b"%d" % number) is None
                assert store.oldest_snapshot() is None
            taken = batch(state, b"n", b"%d" % number)
            now(store.commit(taken))
            state = end(taken)
        space = store.space()
        assert space is not None
        sizes.append(space.used)
        now(store.close())
    assert sizes[0] == sizes[1]
