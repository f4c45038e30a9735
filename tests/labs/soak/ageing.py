"""
Figures that may grow with time, and a store that has some time behind it.
"""

from __future__ import annotations

import re
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.core.cursor import Cursor, Transition
from pexservice.stores.interface import Batch
from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import DATA_FILE, Directory
from pexservice.stores.lmdb.store import LmdbStore
from pexservice.stores.remembered_keys import KEPT_KEYS, pack_use
from tests.functional.test_keepalive import STORE, rollup
from tests.support.daemon import Daemon, children
from tests.support.fakes import now
from tests.support.inline_executor import inline

#: How many steps an aged store took at a time.
BATCH = 250


@frozen
class Sample:
    """
    The resources that the service takes, all processes together.

    @ivar memory: MiB, proportional.
    @ivar own: the part of C{memory} that is no file's: a map of the store counts as far as
        it was touched, and each worker begins with none.  MiB.
    @ivar file: MiB.
    @ivar rows: the rows in the journal; a file with pages to spare does not show them.
    """

    memory: float
    own: float
    descriptors: int
    file: float
    rows: int


def age(path: Path) -> None:
    """
    Make a store that has forgotten idempotency keys already.

    So only data that it should not keep makes it larger.
    """
    store = LmdbStore(Directory(str(path)), inline(), verify=lambda _: None)
    now(store.open())
    for first in range(1, 2 * KEPT_KEYS, BATCH):
        keys = (
            # As clients have keys: those of one client have a common beginning.
            (b"%d-before-%d" % (n % 6, n), pack_use(Transition.NEXT.code, n, n))
            for n in range(first, first + BATCH)
        )
        last = first + BATCH - 1
        before, after = Cursor(first - 1, first - 1), Cursor(last, last)
        batch = Batch(before, b"n" * BATCH, after, 0, dict(keys))
        now(store.commit(batch))
    now(store.commit(Batch(after, b"r", Cursor(after.revision + 1, 0), 0)))
    now(store.close())


def sample(daemon: Daemon) -> Sample:
    """
    Take a sample, when a worker serves and one stands by.
    """
    processes = [daemon.process.pid, *children(daemon.process.pid)]
    text = "".join(rollup(pid) for pid in processes)
    whole, own = (
        sum(map(int, re.findall(rf"^{name}: +(\d+) kB", text, re.MULTILINE))) / 1024
        for name in ("Pss", "Pss_Anon")
    )
    store = daemon.path / STORE
    with (
        lmdb.open(str(store), max_dbs=len(DATABASES), readonly=True) as env,
        env.begin() as txn,
    ):
        rows = txn.stat(env.open_db(b"journal", txn, create=False))["entries"]
    return Sample(
        whole,
        own,
        sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in processes),
        (store / DATA_FILE).stat().st_size / (1 << 20),
        rows,
    )
