"""
Power cuts under load, and while a store is made.

They happen on each file system that a store is likely to be on.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import DATA_FILE, STAGING_DIRECTORY, WITNESS_FILE
from pexservice.stores.lmdb.file_system import sync_directory
from pexservice.stores.lmdb.transaction import format_of
from pexservice.stores.remembered_keys import unpack_use
from tests.labs.power_cuts.lab import CLIENTS, add, laboratory
from tests.labs.power_cuts.volumes import KINDS, Kind, Volume
from tests.support.daemon import Daemon, poll_attempts, twistd, wait_until
from tests.support.fakes import ABOVE_ALL, now
from tests.support.format_1 import turn_back
from tests.support.forms import amount
from tests.unit.stores.lmdb.test_store import at
from tests.unit.stores.test_contract import batch

pytestmark = pytest.mark.once

CUTS = 51

#: How many stores are made on each file system.
BIRTHS = 6

#: How long a store is in the making before the cut, at least and at most; it takes
#: about a hundredth of a second.
LABOUR = (0.0, 0.02)

#: How many stores are rewritten on each file system, and how many keys each has.
REWRITINGS = amount(short=6, long=20)
REWRITTEN_KEYS = amount(short=2_000, long=20_000)

#: How long a store is being rewritten before the cut, at least and at most; it takes from
#: half a second to two, half a second of which is the start of the process that does it.
REWRITING = (0.0, amount(short=1.0, long=3.0))

REWRITE = """
import sys
from pexservice.stores.lmdb.directory import Directory
from pexservice.stores.lmdb.migrate import migrate
directory = Directory(sys.argv[1])
directory.lock()
migrate(directory)
"""


@pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs")
def test_power_cut_undoes_no_answered_step(tmp_path: Path) -> None:
    """
    After each of fifty cuts the revision is at least the highest acknowledged.

    The history has every acknowledged step, as in its response.  Each key moved once, with
    or without a response.  Under the same cuts LMDB without syncs loses commits.
    """
    whole = add([*laboratory(tmp_path, CUTS).values()])
    assert whole.cuts == CUTS
    # There was a load, and cuts kept answers from coming.
    assert whole.acknowledged > CLIENTS * CUTS
    assert whole.unknown > 0


@pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_power_cut_during_the_creation_leaves_no_store_or_a_whole_one(
    tmp_path: Path, kind: Kind
) -> None:
    """
    A cut while the store is made leaves no store, or a whole one at revision 0.

    The next start serves, and takes a step.
    """
    moments = random.Random(kind.name)  # noqa: S311 nothing secret
    with Volume(tmp_path, kind) as volume:
        path = volume.point / "store"
        options = ("--store", f"lmdb:{path}")
        for _ in range(BIRTHS):
            _start_and_cut(volume, path, moments.uniform(*LABOUR), *options)
            volume.recover()
            with Daemon(tmp_path, *options, command="pexservice-worker") as daemon:
                answer, _ = daemon.request("/next", "POST")
                assert (answer.status, answer.headers["Pex-Revision"]) == (200, "1")
            shutil.rmtree(path)
            sync_directory(volume.point)


@pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_power_cut_during_the_rewriting_leaves_the_old_store_or_the_new_one(
    tmp_path: Path, kind: Kind
) -> None:
    """
    The next start rewrites an old store, and has the cursor, the history and all keys.
    """
    moments = random.Random(kind.name)  # noqa: S311 nothing secret
    old = tmp_path / "old"
    store = at(old, map_size=1 << 28)
    state = now(store.open())
    for first in range(0, REWRITTEN_KEYS, 100):
        taken = batch(state, b"n" * 100, *(b"%032d" % (first + n) for n in range(100)))
        now(store.commit(taken))
        state = taken.after
    now(store.close())
    keys = turn_back(old)
    assert len(keys) == REWRITTEN_KEYS
    with Volume(tmp_path, kind) as volume:
        path = volume.point / "store"
        for _ in range(REWRITINGS):
            path.mkdir()
            for name in (DATA_FILE, WITNESS_FILE):
                with (path / name).open("wb") as copy:
                    copy.write((old / name).read_bytes())
                    os.fsync(copy.fileno())
            sync_directory(path)
            sync_directory(volume.point)
            _rewrite_and_cut(volume, path, moments.uniform(*REWRITING))
            volume.recover()
            assert format_of(path) in (1, 2)
            store = at(path)
            assert now(store.open()) == state
            assert len(now(store.history(ABOVE_ALL, REWRITTEN_KEYS))) == state[0]
            for key, use in keys.items():
                assert store.remembered_keys.find(key) == unpack_use(use)
            now(store.close())
            shutil.rmtree(path)
            sync_directory(volume.point)


def _rewrite_and_cut(volume: Volume, store: Path, seconds: float) -> None:
    """
    Begin to rewrite a store, and cut the power C{seconds} later.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", REWRITE, str(store)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        staging = store / STAGING_DIRECTORY
        wait_until(lambda: staging.exists() or process.poll() is not None, "it has begun")
        time.sleep(seconds)
        volume.cut()
    finally:
        process.kill()
        process.wait()


def _start_and_cut(volume: Volume, store: Path, seconds: float, *options: str) -> None:
    """
    Start a daemon, and cut the power so long after it began to make its store.
    """
    with (volume.path / "born").open("ab") as log:
        process = subprocess.Popen(
            twistd(
                *("-n", "--pidfile=", "pexservice-worker"),
                *("--listen", "tcp:0:interface=127.0.0.1", *options),
            ),
            cwd=volume.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in poll_attempts():
            if store.exists():
                break
            assert process.poll() is None
        else:
            raise AssertionError("it has not made a store")
        time.sleep(seconds)
        volume.cut()
    finally:
        process.kill()
        process.wait()
