"""
Power cuts under load, and while a store is made.

They happen on each file system that a store is likely to be on.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pexservice.stores.lmdb.directory import sync
from tests.labs.power_cuts.lab import CLIENTS, add, laboratory
from tests.labs.power_cuts.volumes import KINDS, Kind, Volume
from tests.support.daemon import Daemon, patiently, twistd

pytestmark = pytest.mark.once

CUTS = 51

#: How many stores are made on each file system.
BIRTHS = 6

#: How long a store is in the making before the cut, at least and at most; it takes
#: about a hundredth of a second.
LABOUR = (0.0, 0.02)


@pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs")
def test_a_power_cut_takes_nothing_back(tmp_path: Path) -> None:
    """
    After each of fifty cuts the revision is at least the highest acknowledged.

    The history has every acknowledged step as it was told.  Each key moved once, whether
    its answer had come or not.  Under the same cuts LMDB without syncs loses commits.
    """
    whole = add([*laboratory(tmp_path, CUTS).values()])
    assert whole.cuts == CUTS
    # There was a load, and cuts kept answers from coming.
    assert whole.told > CLIENTS * CUTS
    assert whole.unknown > 0


@pytest.mark.needs("root", "mounts", "mkfs.ext4", "mkfs.xfs")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_power_cut_while_a_store_is_made(tmp_path: Path, kind: Kind) -> None:
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
                answer, _ = daemon.ask("/next", "POST")
                assert (answer.status, answer.headers["Pex-Revision"]) == (200, "1")
            shutil.rmtree(path)
            sync(volume.point)


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
        for _ in patiently():
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
