"""
The figures that must not grow, and a store with a past.
"""

from __future__ import annotations

import re
from pathlib import Path

import lmdb
from attrs import frozen

from pexservice.stores.lmdb.databases import DATABASES
from pexservice.stores.lmdb.directory import DATA_FILE
from pexservice.stores.remembered_keys import KEPT_KEYS
from tests.functional.test_keepalive import STORE, rollup
from tests.support.daemon import Daemon, children
from tests.support.stores import make_store_with_keys

#: How many steps each commit of an aged store has.
BATCH_SIZE = 250


@frozen
class Sample:
    """
    The resources of the service, all processes together.

    @ivar memory: the proportional memory, in MiB.
    @ivar anonymous: the part of C{memory} that belongs to no file, in MiB.  The other part
        depends on how much of the store a worker has read.
    @ivar file: the size of the store's file, in MiB.
    @ivar rows: the rows of the journal, because a file with free pages does not show their
        growth.
    """

    memory: float
    anonymous: float
    descriptors: int
    file: float
    rows: int


def make_aged_store(path: Path) -> None:
    """
    Make a store that has already trimmed its idempotency keys.

    After that, only a leak can make it larger.
    """
    make_store_with_keys(
        path,
        2 * KEPT_KEYS,
        batch_size=BATCH_SIZE,
        # Like real clients, each client's keys have the same prefix.
        key=lambda revision: b"%d-before-%d" % (revision % 6, revision),
    )


def take_sample(daemon: Daemon) -> Sample:
    """
    Measure the resources while there are an active worker and a standby.
    """
    processes = [daemon.process.pid, *children(daemon.process.pid)]
    text = "".join(rollup(pid) for pid in processes)
    whole, anonymous = (
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
        anonymous,
        sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in processes),
        (store / DATA_FILE).stat().st_size / (1 << 20),
        rows,
    )
